// The search of plain.py, compiled: the same steps in the same order, so the same rows.
//
// The text is UTF-8 already in lower case. Any bytes are safe: malformed sequences count as separators, and
// the index is checked when it is loaded (Arrays.check), so that every number in it points into its arrays.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <vector>

namespace {

constexpr uint32_t LIMIT = 0x20000, LAST = 0x3FFFF;  // as in words.py
constexpr uint8_t SEPARATOR = 0, LETTER = 1, ALONE = 2;
constexpr int64_t LEAST_LETTERS = 4;
constexpr uint64_t PAIR_KEY = 0xD6E8FEB86659FD93ull;
constexpr int64_t PAIR_REACH = 12;  // as in seeds.py
constexpr uint8_t LEADS = 1, FOLLOWS = 2;
constexpr int64_t REACH = 64, WORDS_A_SLIP = 12, CELLS_A_WORD = 4096;  // as in plain.py

// The arrays of arrays.py, in the order in which native.py hands them over.
struct Index {
    const uint8_t *classes;
    const uint64_t *word_keys;
    const int64_t *word_buckets;
    const int32_t *word_weights;
    const int64_t *letters_first;
    const uint8_t *letters, *roles, *pair_filter;
    const uint64_t *gram_keys;
    const int64_t *gram_buckets;
    const int64_t *gram_first;
    const int32_t *posting_item, *posting_at;
    const int64_t *part_first;
    const int32_t *part_words;
    const uint32_t *starts;  // by word: bit k is set where an n-gram of k words starts with it
    int word_bits, gram_bits, filter_bits;
    int64_t longest, num_words, num_items;
};

struct Word {
    int32_t number;  // -1: no item has it
    bool filled;  // has fillers among its bytes
    int64_t start, end;  // bytes
};

struct Span {
    int64_t weight, found, start, end;  // words [start, end)
};

constexpr Span NOTHING = {0, 0, 0, 0};

// The code point at `at`, which moves behind it. Malformed bytes give 0, a separator.
inline uint32_t next(const uint8_t *text, int64_t length, int64_t &at) {
    const uint8_t lead = text[at++];
    if (lead < 0x80) return lead;
    const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    if (!more || at + more > length) return 0;
    uint32_t point = lead & (0x3F >> more);
    for (int i = 0; i < more; ++i) {
        if ((text[at + i] & 0xC0) != 0x80) return 0;
        point = point << 6 | (text[at + i] & 0x3F);
    }
    at += more;
    return point;
}

// U+FFFF, which stands in the place of an escape's later characters.
inline bool is_filler(const uint8_t *text, int64_t length) {
    return text[0] == 0xEF && length >= 3 && text[1] == 0xBF && text[2] == 0xBF;
}

inline uint8_t class_of(const Index &index, uint32_t point) {
    return point < LIMIT ? index.classes[point] : point <= LAST ? ALONE : SEPARATOR;
}

// The place of a key in its sorted array, or -1.
inline int64_t look_up(const uint64_t *keys, const int64_t *buckets, int bits, uint64_t key) {
    const uint64_t bucket = key >> (64 - bits);
    for (int64_t at = buckets[bucket]; at < buckets[bucket + 1]; ++at)
        if (keys[at] == key) return at;
    return -1;
}

inline uint64_t extend(uint64_t key, int32_t word) {
    key = (key ^ (uint64_t(word) + 1)) * 0x9E3779B97F4A7C15ull;
    return key ^ key >> 29;
}

inline bool is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

// As `alike` of words.py.
bool alike(const uint8_t *word, int64_t m, const uint8_t *other, int64_t n) {
    if (std::min(m, n) < LEAST_LETTERS || m - n > 1 || n - m > 1) return false;
    int64_t head = 0, tail = 0;
    while (head < std::min(m, n) && word[head] == other[head]) ++head;
    while (tail < std::min(m, n) - head && word[m - 1 - tail] == other[n - 1 - tail]) ++tail;
    if (std::any_of(word + head, word + m - tail, is_digit)) return false;
    if (std::any_of(other + head, other + n - tail, is_digit)) return false;
    const int64_t changed = m - head - tail, into = n - head - tail;
    if (changed <= 1 && into <= 1) return true;
    return changed == 2 && into == 2 && word[head] == other[head + 1] && word[head + 1] == other[head];
}

void read_words(const Index &index, const uint8_t *text, int64_t length, std::vector<Word> &words) {
    int64_t at = 0;
    while (at < length) {
        int64_t start = at;
        uint8_t kind = class_of(index, next(text, length, at));
        if (kind == SEPARATOR) continue;
        int64_t end = at;
        while (kind == LETTER && at < length) {
            if (class_of(index, next(text, length, at)) != LETTER) break;
            end = at;
        }
        at = end;  // what ended the word is looked at again: it may stand alone
        uint64_t key = 0xCBF29CE484222325ull;
        int64_t fillers = 0;
        for (int64_t i = start; i < end; ++i) {
            if (is_filler(text + i, end - i)) {
                i += 2;
                ++fillers;
            } else {
                key = (key ^ text[i]) * 0x100000001B3ull;
            }
        }
        if (3 * fillers == end - start) continue;
        key = (key ^ key >> 33) * 0xFF51AFD7ED558CCDull;
        key ^= key >> 33;
        const int64_t number = look_up(index.word_keys, index.word_buckets, index.word_bits, key);
        words.push_back({int32_t(number), fillers > 0, start, end});
    }
}

constexpr int64_t NEVER = INT64_MIN / 2;

// A word that pairs start with, and the key of those pairs so far.
struct Lead {
    int64_t at;
    uint64_t key;
};

// Kept from text to text: clearing arrays as long as the index would cost more than a short text does.
struct Scratch {
    std::vector<Word> words;
    std::vector<int32_t> left;  // by word: how many of a part are not met yet; all 0 between texts
    std::vector<int64_t> last;  // by item: where it was last looked for; all NEVER between texts
    std::vector<int64_t> asked;  // the items that are not NEVER
    std::vector<int64_t> best, found, start;
    std::vector<int32_t> window;
    std::vector<Lead> leads;
    std::vector<uint8_t> spelling;
    std::vector<int64_t> rows;

    void fit(const Index &index) {
        if (int64_t(left.size()) < index.num_words) left.resize(index.num_words, 0);
        if (int64_t(last.size()) < index.num_items) last.resize(index.num_items, NEVER);
        for (const int64_t item : asked) last[item] = NEVER;
        asked.clear();
        words.clear();
        leads.clear();
        rows.clear();
    }
};

class Search {
  public:
    Search(const Index &index, const uint8_t *bytes, Scratch &scratch)
        : index_(index), bytes_(bytes), text_(scratch.words), scratch_(scratch),
          cells_(CELLS_A_WORD * (int64_t(text_.size()) + CELLS_A_WORD)) {}

    struct Part {
        const int32_t *words;
        int64_t length;
    };

    Part part(int64_t item, int which) const {
        const int64_t *first = index_.part_first + 3 * item + which;
        return {index_.part_words + first[0], first[1] - first[0]};
    }

    static int64_t slips(int64_t length) { return 1 + length / WORDS_A_SLIP; }
    static int64_t slack(int64_t length) { return 4 + length / 4; }

    bool around(int64_t item, int64_t begin, int64_t floor_percent, int64_t least, Span (&found)[3]) {
        const Part question = part(item, 0), answer = part(item, 1);
        const int64_t low = std::max<int64_t>(0, begin - slack(question.length));
        const int64_t high = std::min(size(), begin + question.length + slack(question.length));
        int64_t whole = 0;
        for (int64_t i = 0; i < question.length; ++i) whole += index_.word_weights[question.words[i]];
        const int64_t enough = question.length - slips(question.length + answer.length);
        found[0] = align(question, low, high, whole * floor_percent, enough);
        if (!found[0].weight) return false;
        found[1] = beside(answer, found[0]);
        found[2] = beside(part(item, 2), found[0]);
        return found[0].weight + std::max(found[1].weight, found[2].weight) >= least;
    }

    int64_t size() const { return int64_t(text_.size()); }

  private:
    Span beside(const Part &part, const Span &question) {
        const int64_t width = REACH + part.length + part.length / 4;
        const Span after = align(part, question.end, std::min(size(), question.end + width), 0, 0);
        const Span before = align(part, std::max<int64_t>(0, question.start - width), question.start, 0, 0);
        return before.weight > after.weight ? before : after;
    }

    Span align(const Part &part, int64_t low, int64_t high, int64_t floor, int64_t enough) {
        if (low >= high) return NOTHING;
        std::vector<int32_t> &window = scratch_.window, &left = scratch_.left;
        window.resize(high - low);
        for (int64_t i = 0; i < part.length; ++i) ++left[part.words[i]];
        Span bound = {0, 0, low, high};
        for (int64_t at = low; at < high; ++at) {
            const int32_t word = window[at - low] = text_[at].number;
            if (word >= 0 && left[word] > 0) meet(word, bound);
        }
        const int64_t missing = part.length - bound.found;
        if (missing > 0 && bound.found && missing <= 2 * slips(part.length)) respell(part, low, bound);
        for (int64_t i = 0; i < part.length; ++i) left[part.words[i]] = 0;
        if (!bound.weight || (bound.weight * 100 < floor && bound.found < enough)) return NOTHING;
        cells_ -= part.length * (high - low);
        if (cells_ < 0) return bound;
        const Span found = heaviest(part, low);
        return found.weight * 100 >= floor || found.found >= enough ? found : NOTHING;
    }

    void meet(int32_t word, Span &bound) {
        --scratch_.left[word];
        ++bound.found;
        bound.weight += index_.word_weights[word];
    }

    // Reads misspelt words of the window as the words of the part that they stand for.
    void respell(const Part &part, int64_t low, Span &bound) {
        std::vector<int32_t> &window = scratch_.window;
        for (int64_t i = 0; i < part.length; ++i) {
            const int32_t word = part.words[i];
            const int64_t first = index_.letters_first[word], length = index_.letters_first[word + 1] - first;
            for (size_t place = 0; place < window.size() && scratch_.left[word] > 0; ++place) {
                if (!spells(index_.letters + first, length, text_[low + place])) continue;
                const int32_t *end = part.words + part.length;
                if (std::find(part.words, end, window[place]) != end) continue;
                window[place] = word;
                meet(word, bound);
            }
        }
    }

    bool spells(const uint8_t *letters, int64_t length, const Word &word) {
        if (!word.filled) return alike(letters, length, bytes_ + word.start, word.end - word.start);
        std::vector<uint8_t> &spelling = scratch_.spelling;
        spelling.clear();
        for (int64_t at = word.start; at < word.end; ++at)
            if (is_filler(bytes_ + at, word.end - at)) at += 2;
            else spelling.push_back(bytes_[at]);
        return alike(letters, length, spelling.data(), int64_t(spelling.size()));
    }

    Span heaviest(const Part &part, int64_t low) {
        const std::vector<int32_t> &window = scratch_.window;
        const int64_t width = int64_t(window.size());
        std::vector<int64_t> &best = scratch_.best, &found = scratch_.found, &start = scratch_.start;
        best.assign(width + 1, 0);
        found.assign(width + 1, 0);
        start.assign(width + 1, low);
        for (int64_t i = 0; i < part.length; ++i) {
            const int32_t word = part.words[i];
            const int64_t weight = index_.word_weights[word];
            int64_t diagonal = 0, diagonal_found = 0, diagonal_start = low;
            for (int64_t column = 1; column <= width; ++column) {
                const int64_t above = best[column], above_found = found[column], above_start = start[column];
                const int64_t met = window[column - 1] == word ? diagonal + weight : -1;
                if (met >= above && met >= best[column - 1]) {
                    best[column] = met;
                    found[column] = diagonal_found + 1;
                    start[column] = diagonal ? diagonal_start : low + column - 1;
                } else if (above < best[column - 1]) {
                    best[column] = best[column - 1];
                    found[column] = found[column - 1];
                    start[column] = start[column - 1];
                }
                diagonal = above;
                diagonal_found = above_found;
                diagonal_start = above_start;
            }
        }
        int64_t end = 0;
        while (best[end] != best[width]) ++end;
        return {best[width], found[end], start[end], low + end};
    }

    const Index &index_;
    const uint8_t *bytes_;
    const std::vector<Word> &text_;
    Scratch &scratch_;
    int64_t cells_;
};

constexpr int64_t COLUMNS = 16;  // of a row

// A row as in plain.py: item, then weight, words, extra words, first and last byte of each part.
void add_row(std::vector<int64_t> &rows, int64_t item, const Span (&found)[3],
             const std::vector<Word> &words) {
    rows.resize(rows.size() + COLUMNS);  // zeros
    int64_t *row = rows.data() + rows.size() - COLUMNS;
    row[0] = item;
    for (int i = 0; i < 3; ++i) {
        const Span &span = found[i];
        if (!span.weight) continue;
        int64_t *part = row + 1 + 5 * i;
        part[0] = span.weight;
        part[1] = span.found;
        part[2] = span.end - span.start - span.found;
        part[3] = words[span.start].start;
        part[4] = words[span.end - 1].end;
    }
}

// Follows the seeds of a text to the items that have them, in the order of plain.py.
struct Follower {
    const Index &index;
    Scratch &scratch;
    Search &task;
    int64_t floor_percent, least;
    size_t most;  // numbers in all rows
    bool full;

    void run() {
        size_t oldest = 0;
        for (int64_t at = 0; at < task.size() && !full; ++at) {
            const int32_t word = scratch.words[at].number;
            if (word < 0) continue;
            const uint8_t roles = index.roles[word];
            if (roles & FOLLOWS) pairs(at, word, oldest);
            if (roles & LEADS) scratch.leads.push_back({at, extend(PAIR_KEY, word)});
            if (index.starts[word]) grams(at, index.starts[word]);
        }
    }

    void pairs(int64_t at, int32_t word, size_t &oldest) {
        while (oldest < scratch.leads.size() && scratch.leads[oldest].at < at - PAIR_REACH) ++oldest;
        for (size_t i = oldest; i < scratch.leads.size(); ++i) {
            const uint64_t key = extend(scratch.leads[i].key, word), bit = key >> (64 - index.filter_bits);
            if (index.pair_filter[bit >> 3] >> (bit & 7) & 1) follow(key, at);
        }
    }

    void grams(int64_t at, uint32_t lengths) {
        uint64_t key = 0;
        for (int64_t k = 1; k <= index.longest && at + k <= task.size(); ++k) {
            const int32_t word = scratch.words[at + k - 1].number;
            if (word < 0) return;
            key = extend(key, word);
            if (lengths >> k & 1) follow(key, at);
        }
    }

    void follow(uint64_t key, int64_t at) {
        const int64_t gram = look_up(index.gram_keys, index.gram_buckets, index.gram_bits, key);
        if (gram < 0) return;
        for (int64_t post = index.gram_first[gram]; post < index.gram_first[gram + 1] && !full; ++post) {
            const int64_t item = index.posting_item[post], begin = at - index.posting_at[post];
            const int64_t near = Search::slack(task.part(item, 0).length) / 2;
            int64_t &last = scratch.last[item];
            if (begin - last <= near && last - begin <= near) continue;
            if (last == NEVER) scratch.asked.push_back(item);
            last = begin;
            Span found[3];
            if (!task.around(item, begin, floor_percent, least, found)) continue;
            add_row(scratch.rows, item, found, scratch.words);
            full = scratch.rows.size() >= most;
        }
    }
};

Scratch &scratch_of_this_thread() {
    static thread_local Scratch scratch;
    return scratch;
}

}  // namespace

extern "C" {

// How many rows there are, at most `limit`: `fetch` gives them to the thread that searched. -1: out of memory.
// `arrays` and `sizes` are those of native.py.
int64_t search(const void *const *arrays, const int64_t *sizes, const uint8_t *text, int64_t length,
               int64_t floor_percent, int64_t least, int64_t limit) try {
    const Index index = {
        (const uint8_t *)arrays[0],  (const uint64_t *)arrays[1],  (const int64_t *)arrays[2],
        (const int32_t *)arrays[3],  (const int64_t *)arrays[4],   (const uint8_t *)arrays[5],
        (const uint8_t *)arrays[6],  (const uint8_t *)arrays[7],   (const uint64_t *)arrays[8],
        (const int64_t *)arrays[9],  (const int64_t *)arrays[10],  (const int32_t *)arrays[11],
        (const int32_t *)arrays[12], (const int64_t *)arrays[13],  (const int32_t *)arrays[14],
        (const uint32_t *)arrays[15],
        int(sizes[0]), int(sizes[1]), int(sizes[2]), sizes[3], sizes[4], sizes[5],
    };
    Scratch &scratch = scratch_of_this_thread();
    scratch.fit(index);
    read_words(index, text, length, scratch.words);
    Search task(index, text, scratch);
    Follower follower = {index, scratch, task, floor_percent, least, size_t(COLUMNS * limit), limit <= 0};
    follower.run();
    return int64_t(scratch.rows.size()) / COLUMNS;
} catch (const std::exception &) {  // std::bad_alloc, or std::length_error where more is asked than can be
    scratch_of_this_thread() = Scratch();  // what it holds was left in the middle of a text
    return -1;
}

void fetch(int64_t *out) {
    const std::vector<int64_t> &rows = scratch_of_this_thread().rows;
    std::copy(rows.begin(), rows.end(), out);
}

}  // extern "C"
