// Byte-level BPE: cutting text into pieces, encoding, and learning a vocabulary. The plain version beside it
// is the `tokenizers` library, and ids, merges and vocabularies are the same as its own.
//
// Text is UTF-8 that Python has encoded, so it is valid; every read is bounded all the same, and a byte that
// begins no character is taken for a character of no class. One thread; no state but the two objects.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

using std::int64_t;
using std::size_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

// --- pieces: the pre-tokenizer patterns as a scanner ----------------------------------------------------

enum Class : uint8_t { OTHER = 0, LETTER = 1, NUMBER = 2, SPACE = 3, LINE_BREAK = 4 };  // see classes.py
enum Pattern : int { QWEN2 = 0, LLAMA3 = 1, GPT2 = 2 };

struct Scanner {
    std::vector<uint8_t> classes;  // of every code point
    Pattern pattern;

    Scanner(const uint8_t* table, int64_t size, int which)
        : classes(table, table + size), pattern(static_cast<Pattern>(which)) {
        classes.resize(0x110000, OTHER);
    }

    struct Character {
        uint8_t kind;
        int length;
    };

    // The class of the character at `p` and its bytes; p < end.
    inline Character at(const uint8_t* p, const uint8_t* end) const {
        const uint8_t first = *p;
        if (first < 0x80) return {classes[first], 1};
        return beyond_ascii(p, end);
    }

    Character beyond_ascii(const uint8_t* p, const uint8_t* end) const {
        const uint8_t first = *p;
        const int length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
        if (first < 0xC2 || first > 0xF4 || end - p < length) return {OTHER, 1};
        uint32_t code = first & (0xFF >> (length + 1));
        for (int i = 1; i < length; ++i) code = code << 6 | (p[i] & 0x3F);
        return {code < 0x110000 ? classes[code] : static_cast<uint8_t>(OTHER), length};
    }

    // Past the run of characters of class `kind` that begins at `p`.
    const uint8_t* past(const uint8_t* p, const uint8_t* end, uint8_t kind) const {
        while (p < end) {
            const Character c = at(p, end);
            if (c.kind != kind) break;
            p += c.length;
        }
        return p;
    }

    // 's 't 're 've 'm 'll 'd behind the apostrophe at `p`: the bytes of the whole, or 0. Where case does not
    // matter the long s (U+017F) is an s.
    int contraction(const uint8_t* p, const uint8_t* end) const {
        if (end - p < 2) return 0;
        const bool folds = pattern != GPT2;
        const auto small = [folds](uint8_t c) -> int { return folds && c >= 'A' && c <= 'Z' ? c + 32 : c; };
        const int a = small(p[1]);
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
        if (end - p < 3) return 0;
        const int b = small(p[2]);
        if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return 3;
        if (folds && p[1] == 0xC5 && p[2] == 0xBF) return 3;
        return 0;
    }

    // The end of the piece that begins at `p`, p < end. The alternatives are tried in the pattern's order.
    const uint8_t* piece(const uint8_t* p, const uint8_t* end) const {
        if (*p == '\'') {
            if (const int length = contraction(p, end)) return p + length;
        }
        const Character first = at(p, end);
        if (first.kind == LETTER) return past(p + first.length, end, LETTER);
        return pattern == GPT2 ? piece_gpt2(p, end, first) : piece_qwen2(p, end, first);
    }

    // [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} or \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n]* | white space
    const uint8_t* piece_qwen2(const uint8_t* p, const uint8_t* end, Character first) const {
        const uint8_t* q = p + first.length;
        if (first.kind == NUMBER) {
            for (int digits = 1; pattern == LLAMA3 && digits < 3 && q < end; ++digits) {
                const Character c = at(q, end);
                if (c.kind != NUMBER) break;
                q += c.length;
            }
            return q;
        }
        if (first.kind == LINE_BREAK) return white_space(p, end);
        const Character second = q < end ? at(q, end) : Character{SPACE, 0};
        if (second.length && second.kind == LETTER) return past(q + second.length, end, LETTER);
        if (first.kind == SPACE) {
            if (*p != ' ' || !second.length || second.kind != OTHER) return white_space(p, end);
            q += second.length;
        }
        return past(past(q, end, OTHER), end, LINE_BREAK);
    }

    // ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | white space
    const uint8_t* piece_gpt2(const uint8_t* p, const uint8_t* end, Character first) const {
        if (first.kind == LINE_BREAK) return white_space(p, end);
        if (first.kind != SPACE) return past(p + first.length, end, first.kind);
        const uint8_t* q = p + first.length;
        if (*p != ' ' || q == end) return white_space(p, end);
        const Character second = at(q, end);
        if (second.kind == SPACE || second.kind == LINE_BREAK) return white_space(p, end);
        return past(q + second.length, end, second.kind);
    }

    // \s*[\r\n]+ (not in GPT-2) | \s+(?!\S) | \s+
    const uint8_t* white_space(const uint8_t* p, const uint8_t* end) const {
        const uint8_t *q = p, *last = p, *behind_break = nullptr;
        while (q < end) {
            const Character c = at(q, end);
            if (c.kind != SPACE && c.kind != LINE_BREAK) break;
            last = q;
            q += c.length;
            if (c.kind == LINE_BREAK) behind_break = q;
        }
        if (behind_break && pattern != GPT2) return behind_break;
        return q == end || last == p ? q : last;  // the last space goes with the word behind it
    }
};

// --- hashing of short pieces ----------------------------------------------------------------------------

constexpr int KEY = 30;  // bytes of a piece that is kept in the cache

struct Key {
    uint64_t word[4];
};

// The first `length` <= 32 bytes at `p`, zeros behind them. Reads 32 bytes where the text has them.
inline Key key_of(const uint8_t* p, const uint8_t* end, int length) {
    Key key{};
    if (end - p >= 32) {
        std::memcpy(key.word, p, 32);
        for (int i = 0; i < 4; ++i) {
            const int bits = 8 * std::min(8, std::max(0, length - 8 * i));
            key.word[i] &= bits == 64 ? ~0ull : (1ull << bits) - 1;
        }
    } else {
        std::memcpy(key.word, p, static_cast<size_t>(length));
    }
    return key;
}

inline uint64_t mixed(uint64_t h) {
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93ull;
    return h ^ h >> 32;
}

inline uint64_t hash_of(const Key& key, int length) {
    const uint64_t* w = key.word;
    uint64_t h = (w[0] ^ static_cast<uint64_t>(length)) * 0x9E3779B97F4A7C15ull;
    h ^= (w[1] + 0x517CC1B727220A95ull) * 0xBF58476D1CE4E5B9ull;
    h ^= h >> 29;
    h += (w[2] ^ 0x94D049BB133111EBull) * 0x2545F4914F6CDD1Dull;
    h ^= (w[3] + 0x632BE59BD9B4E019ull) * 0xD1B54A32D192ED03ull;
    return mixed(h);
}

uint64_t hash_bytes(const uint8_t* p, size_t length) {
    uint64_t h = 0x9E3779B97F4A7C15ull ^ length;
    for (; length >= 8; p += 8, length -= 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        h = mixed(h ^ word) * 0x9E3779B97F4A7C15ull;
    }
    uint64_t word = 0;
    std::memcpy(&word, p, length);
    return mixed(h ^ word);
}

inline uint64_t pair_of(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }

constexpr uint64_t NONE = ~0ull;

// pair -> number; open addressing, never more than half full.
struct PairMap {
    std::vector<uint64_t> keys;
    std::vector<uint32_t> values;
    size_t used = 0, mask;

    explicit PairMap(size_t expected = 0) {
        size_t size = 64;
        while (size < 2 * expected) size *= 2;
        reserve(size);
    }
    void reserve(size_t size) {
        keys.assign(size, NONE);
        values.assign(size, 0);
        mask = size - 1;
    }
    size_t slot(uint64_t key) const {
        size_t i = mixed(key * 0x9E3779B97F4A7C15ull) & mask;
        while (keys[i] != NONE && keys[i] != key) i = (i + 1) & mask;
        return i;
    }
    const uint32_t* find(uint64_t key) const {
        const size_t i = slot(key);
        return keys[i] == key ? &values[i] : nullptr;
    }
    // The value's place; `fresh` says whether it was made now.
    uint32_t& operator()(uint64_t key, bool& fresh) {
        if (2 * (used + 1) > keys.size()) grow();
        const size_t i = slot(key);
        fresh = keys[i] == NONE;
        if (fresh) {
            keys[i] = key;
            ++used;
        }
        return values[i];
    }
    void grow() {
        std::vector<uint64_t> old_keys(std::move(keys));
        std::vector<uint32_t> old_values(std::move(values));
        reserve(2 * old_keys.size());
        for (size_t j = 0; j < old_keys.size(); ++j) {
            if (old_keys[j] == NONE) continue;
            const size_t i = slot(old_keys[j]);
            keys[i] = old_keys[j];
            values[i] = old_values[j];
        }
    }
};

// --- encoding -------------------------------------------------------------------------------------------

// Ids of a piece that was met before. One cache line.
struct alignas(64) Cached {
    static constexpr int IDS = 7;
    Key key;
    uint32_t ids[IDS];
    uint8_t length = 0, count = 0;  // a length of 0 is an empty slot
};

struct Encoder {
    static constexpr size_t SLOTS = 1 << 16;   // 4 MB: what a core's second cache holds, and bounded
    static constexpr size_t SHORT = 64;        // above this many symbols a heap finds the next merge
    static constexpr uint32_t NO_RANK = 0xFFFFFFFF;

    Scanner scanner;
    std::vector<uint32_t> byte_ids, results;
    PairMap merges;  // pair -> rank
    bool whole_first;
    std::string spellings;
    std::unordered_map<std::string_view, uint32_t> whole;  // bytes of a token -> id, where asked for
    std::vector<Cached> cache;

    Encoder(Scanner s, const uint32_t* bytes, const uint32_t* pairs, int64_t count)
        : scanner(std::move(s)), byte_ids(bytes, bytes + 256), merges(static_cast<size_t>(count)),
          whole_first(false), cache(SLOTS) {
        results.reserve(static_cast<size_t>(count));
        for (int64_t rank = 0; rank < count; ++rank) {
            bool fresh;
            merges(pair_of(pairs[3 * rank], pairs[3 * rank + 1]), fresh) = static_cast<uint32_t>(rank);
            results.push_back(pairs[3 * rank + 2]);
        }
    }

    uint32_t rank(uint32_t left, uint32_t right) const {
        const uint32_t* found = merges.find(pair_of(left, right));
        return found ? *found : NO_RANK;
    }

    uint32_t* text(const uint8_t* p, const uint8_t* end, uint32_t* out) {
        while (p < end) {
            const uint8_t* next = scanner.piece(p, end);
            const size_t length = static_cast<size_t>(next - p);
            if (length == 1) {
                *out++ = byte_ids[*p];
            } else if (length <= KEY) {
                out = cached(p, end, static_cast<int>(length), out);
            } else {
                out = piece(p, length, out);
            }
            p = next;
        }
        return out;
    }

    uint32_t* cached(const uint8_t* p, const uint8_t* end, int length, uint32_t* out) {
        const Key key = key_of(p, end, length);
        Cached& slot = cache[hash_of(key, length) & (SLOTS - 1)];
        if (slot.length == length && std::memcmp(&slot.key, &key, sizeof key) == 0) {
            for (int i = 0; i < slot.count; ++i) out[i] = slot.ids[i];
            return out + slot.count;
        }
        uint32_t* behind = piece(p, static_cast<size_t>(length), out);
        if (behind - out <= Cached::IDS) {
            slot.key = key;
            slot.length = static_cast<uint8_t>(length);
            slot.count = static_cast<uint8_t>(behind - out);
            std::copy(out, behind, slot.ids);
        }
        return behind;
    }

    uint32_t* piece(const uint8_t* p, size_t length, uint32_t* out) {
        if (whole_first) {
            const auto found = whole.find({reinterpret_cast<const char*>(p), length});
            if (found != whole.end()) {
                *out = found->second;
                return out + 1;
            }
        }
        return length <= SHORT ? short_piece(p, length, out) : long_piece(p, length, out);
    }

    // The leftmost pair of the lowest rank is merged until none is left: quadratic, and fastest when short.
    uint32_t* short_piece(const uint8_t* p, size_t length, uint32_t* out) const {
        uint32_t ranks[SHORT];
        size_t count = length;
        for (size_t i = 0; i < count; ++i) out[i] = byte_ids[p[i]];
        for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rank(out[i], out[i + 1]);
        while (count > 1) {
            size_t best = 0;
            for (size_t i = 1; i + 1 < count; ++i) best = ranks[i] < ranks[best] ? i : best;
            if (ranks[best] == NO_RANK) break;
            out[best] = results[ranks[best]];
            for (size_t i = best + 1; i + 1 < count; ++i) out[i] = out[i + 1];
            for (size_t i = best + 1; i + 2 < count; ++i) ranks[i] = ranks[i + 1];
            --count;
            if (best > 0) ranks[best - 1] = rank(out[best - 1], out[best]);
            if (best + 1 < count) ranks[best] = rank(out[best], out[best + 1]);
        }
        return out + count;
    }

    // The same with a linked list and a heap: n log n, whatever comes.
    uint32_t* long_piece(const uint8_t* p, size_t length, uint32_t* out) const {
        struct Symbol {
            int64_t before, behind;
            uint32_t id;
        };
        struct Candidate {
            uint32_t rank, left, right;  // ids as they were, to see that they still are
            int64_t place;
            bool operator<(const Candidate& other) const {  // std's heap has the largest on top
                return rank != other.rank ? rank > other.rank : place > other.place;
            }
        };
        const int64_t count = static_cast<int64_t>(length);
        std::vector<Symbol> symbols(length);
        std::vector<Candidate> heap;
        const auto consider = [&](int64_t place) {
            if (place < 0 || symbols[place].behind >= count) return false;
            const uint32_t left = symbols[place].id, right = symbols[symbols[place].behind].id;
            const uint32_t found = rank(left, right);
            if (found != NO_RANK) heap.push_back({found, left, right, place});
            return found != NO_RANK;
        };
        for (int64_t i = 0; i < count; ++i) symbols[i] = {i - 1, i + 1, byte_ids[p[i]]};
        for (int64_t i = 0; i + 1 < count; ++i) consider(i);
        std::make_heap(heap.begin(), heap.end());
        while (!heap.empty()) {
            std::pop_heap(heap.begin(), heap.end());
            const Candidate top = heap.back();
            heap.pop_back();
            Symbol& left = symbols[top.place];
            if (left.id != top.left || left.behind >= count || symbols[left.behind].id != top.right) continue;
            Symbol& right = symbols[left.behind];
            left.id = results[top.rank];
            right.id = NO_RANK;  // gone: no candidate has this id
            left.behind = right.behind;
            if (left.behind < count) symbols[left.behind].before = top.place;
            if (consider(left.before)) std::push_heap(heap.begin(), heap.end());
            if (consider(top.place)) std::push_heap(heap.begin(), heap.end());
        }
        for (int64_t i = 0; i < count; i = symbols[i].behind) *out++ = symbols[i].id;
        return out;
    }
};

// --- learning -------------------------------------------------------------------------------------------

// Distinct pieces and how often each occurs.
struct Words {
    struct Word {
        size_t start;
        uint32_t length;
        int64_t count;
        uint64_t hash;
    };
    static constexpr uint32_t EMPTY = 0xFFFFFFFF;
    std::vector<uint8_t> bytes;
    std::vector<Word> words;
    std::vector<uint32_t> table = std::vector<uint32_t>(1 << 12, EMPTY);

    void add(const uint8_t* p, size_t length, int64_t count, uint64_t hash) {
        size_t i = hash & (table.size() - 1);
        for (; table[i] != EMPTY; i = (i + 1) & (table.size() - 1)) {
            Word& word = words[table[i]];
            if (word.hash == hash && word.length == length &&
                std::memcmp(bytes.data() + word.start, p, length) == 0) {
                word.count += count;
                return;
            }
        }
        table[i] = static_cast<uint32_t>(words.size());
        words.push_back({bytes.size(), static_cast<uint32_t>(length), count, hash});
        bytes.insert(bytes.end(), p, p + length);
        if (2 * words.size() > table.size()) index(2 * table.size());
    }

    void index(size_t size) {
        table.assign(size, EMPTY);
        for (size_t w = 0; w < words.size(); ++w) {
            size_t i = words[w].hash & (size - 1);
            while (table[i] != EMPTY) i = (i + 1) & (size - 1);
            table[i] = static_cast<uint32_t>(w);
        }
    }

    // Forgets the pieces that occurred at most `rare` times.
    void prune(int64_t rare) {
        size_t kept = 0, end = 0;
        for (const Word& word : words) {
            if (word.count <= rare) continue;
            std::memmove(bytes.data() + end, bytes.data() + word.start, word.length);
            words[kept++] = {end, word.length, word.count, word.hash};
            end += word.length;
        }
        words.resize(kept);
        bytes.resize(end);
        index(table.size());
    }
};

struct Learner {
    // A longer piece (a file of base64, a page without spaces) is cut: each merge reads it again, and what lies
    // at the seams says nothing about a language.
    static constexpr size_t LONGEST = 1 << 14;
    static constexpr size_t MEAN_BYTES = 32;  // of a piece, for the bound on memory

    Scanner scanner;
    Words words;
    size_t max_words;
    int64_t forgotten_below = 0;  // pieces up to this count were forgotten, once or more often
    std::vector<uint32_t> merges;

    Learner(Scanner s, int64_t most) : scanner(std::move(s)), max_words(static_cast<size_t>(most)) {}

    void add(const uint8_t* p, const uint8_t* end, int64_t times) {
        while (p < end) {
            const uint8_t* next = scanner.piece(p, end);
            for (; p < next; p += std::min<size_t>(LONGEST, static_cast<size_t>(next - p))) {
                const size_t length = std::min<size_t>(LONGEST, static_cast<size_t>(next - p));
                const uint64_t hash = length <= 32
                    ? hash_of(key_of(p, end, static_cast<int>(length)), static_cast<int>(length))
                    : hash_bytes(p, length);
                words.add(p, length, times, hash);
            }
        }
        if (words.words.size() <= max_words && words.bytes.size() <= MEAN_BYTES * max_words) return;
        while (4 * words.words.size() > 3 * max_words || 4 * words.bytes.size() > 3 * MEAN_BYTES * max_words)
            words.prune(++forgotten_below);
    }

    // The trainer of the `tokenizers` library, step for step, so that its vocabulary comes out. In particular
    // a pair's count stays behind when it has been merged, and what a pair can be merged in is what was noted
    // since it was last queued. Sennrich et al. 2016, arXiv 1508.07909.
    void learn(const uint32_t* byte_ids, uint32_t first_new, int64_t num_merged, int64_t least);
};

struct Queued {
    int64_t count;
    uint64_t pair, order;
    std::vector<uint32_t>* where;
    bool operator<(const Queued& other) const {  // on top: the most frequent, then the smallest pair
        if (count != other.count) return count < other.count;
        return pair != other.pair ? pair > other.pair : order > other.order;
    }
};

void Learner::learn(const uint32_t* byte_ids, uint32_t first_new, int64_t num_new, int64_t least) {
    const size_t num_words = words.words.size();
    std::vector<uint32_t> symbols(words.bytes.size()), lengths(num_words);
    std::unordered_map<std::string, uint32_t> known;
    std::vector<std::string> spelling(first_new);
    for (int b = 0; b < 256; ++b) {
        const std::string letter(1, static_cast<char>(b));
        known[letter] = byte_ids[b];
        spelling[byte_ids[b]] = letter;
    }
    for (size_t i = 0; i < symbols.size(); ++i) symbols[i] = byte_ids[words.bytes[i]];

    PairMap numbers;  // pair -> its place in the next three
    std::vector<int64_t> counts;
    std::vector<uint64_t> pairs;
    std::vector<std::vector<uint32_t>> noted;
    std::vector<uint32_t> touched;
    const auto change = [&](uint32_t left, uint32_t right, int64_t by, uint32_t word) {
        bool fresh;
        uint32_t& number = numbers(pair_of(left, right), fresh);
        if (fresh) {
            number = static_cast<uint32_t>(counts.size());
            counts.push_back(0);
            pairs.push_back(pair_of(left, right));
            noted.emplace_back();
        }
        counts[number] += by;
        if (by <= 0) return;
        std::vector<uint32_t>& places = noted[number];
        if (places.empty()) touched.push_back(number);
        if (places.empty() || places.back() != word) places.push_back(word);
    };
    std::priority_queue<Queued> queue;
    uint64_t order = 0;
    const auto enqueue = [&] {
        for (const uint32_t number : touched) {
            if (counts[number] > 0) {
                auto* where = new std::vector<uint32_t>(std::move(noted[number]));
                queue.push({counts[number], pairs[number], order++, where});
            }
            noted[number] = {};
        }
        touched.clear();
    };

    for (size_t w = 0; w < num_words; ++w) {
        const uint32_t* word = symbols.data() + words.words[w].start;
        lengths[w] = words.words[w].length;
        for (uint32_t i = 0; i + 1 < lengths[w]; ++i)
            change(word[i], word[i + 1], words.words[w].count, static_cast<uint32_t>(w));
    }
    enqueue();
    for (int64_t made = 0; made < num_new && !queue.empty();) {
        Queued top = queue.top();
        queue.pop();
        bool fresh;
        const int64_t count = counts[numbers(top.pair, fresh)];
        if (top.count != count) {
            top.count = count;
            queue.push(top);
            continue;
        }
        if (count < 1 || count < least) {
            delete top.where;
            break;
        }
        const uint32_t left = static_cast<uint32_t>(top.pair >> 32), right = static_cast<uint32_t>(top.pair);
        const auto [entry, is_new] =
            known.try_emplace(spelling[left] + spelling[right], static_cast<uint32_t>(spelling.size()));
        if (is_new) {
            spelling.push_back(entry->first);
            ++made;
        }
        const uint32_t merged = entry->second;
        merges.insert(merges.end(), {left, right, merged});
        for (const uint32_t w : *top.where) {
            uint32_t* word = symbols.data() + words.words[w].start;
            const int64_t times = words.words[w].count;
            uint32_t kept = 0;
            for (uint32_t i = 0; i < lengths[w]; ++i) {
                if (word[i] != left || i + 1 == lengths[w] || word[i + 1] != right) {
                    word[kept++] = word[i];
                    continue;
                }
                if (kept > 0) {
                    change(word[kept - 1], left, -times, w);
                    change(word[kept - 1], merged, times, w);
                }
                ++i;
                if (i + 1 < lengths[w]) {
                    change(right, word[i + 1], -times, w);
                    change(merged, word[i + 1], times, w);
                }
                word[kept++] = merged;
            }
            lengths[w] = kept;
        }
        delete top.where;
        enqueue();
    }
    for (; !queue.empty(); queue.pop()) delete queue.top().where;
}

}  // namespace

// --- what Python calls ----------------------------------------------------------------------------------

extern "C" {

// `classes`: a Class for each code point; `byte_ids`: (256,) ids; `merges`: (count, 3) left, right, result.
void* encoder_new(const uint8_t* classes, int64_t size, int pattern, const uint32_t* byte_ids,
                  const uint32_t* merges, int64_t count) {
    return new Encoder(Scanner(classes, size, pattern), byte_ids, merges, count);
}

// Pieces that are a token as they stand are not merged ("ignore_merges"). `spelling` holds the bytes of all
// tokens, `ends` where each one ends, `ids` the id of each.
void encoder_whole_first(void* encoder, const uint8_t* spelling, const int64_t* ends, const uint32_t* ids,
                         int64_t count) {
    Encoder& e = *static_cast<Encoder*>(encoder);
    e.whole_first = true;
    e.spellings.assign(reinterpret_cast<const char*>(spelling), count ? static_cast<size_t>(ends[count - 1]) : 0);
    for (int64_t i = 0, start = 0; i < count; start = ends[i++])
        e.whole[std::string_view(e.spellings).substr(start, ends[i] - start)] = ids[i];
}

// Text i is [ends[i - 1], ends[i]) of `text`. `ids` has room for one id a byte; `id_ends` gets the ends.
// 1 where memory does not suffice for a piece of gigabytes, else 0.
int64_t encoder_encode(void* encoder, const uint8_t* text, const int64_t* ends, int64_t count, uint32_t* ids,
                       int64_t* id_ends) try {
    uint32_t* out = ids;
    for (int64_t i = 0, start = 0; i < count; start = ends[i++]) {
        out = static_cast<Encoder*>(encoder)->text(text + start, text + ends[i], out);
        id_ends[i] = out - ids;
    }
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

void encoder_free(void* encoder) { delete static_cast<Encoder*>(encoder); }

void* learner_new(const uint8_t* classes, int64_t size, int pattern, int64_t max_words) {
    return new Learner(Scanner(classes, size, pattern), max_words);
}

// Counts the pieces of text i, [ends[i - 1], ends[i]) of `text`, `times` over.
void learner_add(void* learner, const uint8_t* text, const int64_t* ends, int64_t count, int64_t times) {
    for (int64_t i = 0, start = 0; i < count; start = ends[i++])
        static_cast<Learner*>(learner)->add(text + start, text + ends[i], times);
}

// Up to `num_new` new ids from `first_new` on, from pairs that occur `least` times. The number of merges.
int64_t learner_learn(void* learner, const uint32_t* byte_ids, int64_t first_new, int64_t num_new,
                      int64_t least) {
    Learner& l = *static_cast<Learner*>(learner);
    l.learn(byte_ids, static_cast<uint32_t>(first_new), num_new, least);
    return static_cast<int64_t>(l.merges.size() / 3);
}

// Copies the merges, (count, 3): left, right, result.
void learner_merges(void* learner, uint32_t* out) {
    const Learner& l = *static_cast<Learner*>(learner);
    std::copy(l.merges.begin(), l.merges.end(), out);
}

// Pieces that occurred this often, or less, were forgotten to bound memory; 0 where none was.
int64_t learner_forgotten(void* learner) { return static_cast<Learner*>(learner)->forgotten_below; }

void learner_free(void* learner) { delete static_cast<Learner*>(learner); }

// For tests: where the pieces of one text end; `ends` has room for one a byte. The number of pieces.
int64_t pieces(const uint8_t* classes, int64_t size, int pattern, const uint8_t* text, int64_t length,
               int64_t* ends) {
    const Scanner scanner(classes, size, pattern);
    int64_t count = 0;
    for (const uint8_t* p = text; p < text + length;) {
        p = scanner.piece(p, text + length);
        ends[count++] = p - text;
    }
    return count;
}
}
