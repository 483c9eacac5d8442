// The search of plain.py, compiled: the same steps in the same order, so the same rows.
//
// The text is UTF-8 already in lower case. Any bytes are safe: malformed sequences count as separators, and the
// index is checked when it is loaded (Arrays.check), so that every number in it points into its arrays.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr uint32_t LIMIT = 0x20000, LAST = 0x3FFFF;  // as in words.py
constexpr uint8_t SEPARATOR = 0, LETTER = 1, ALONE = 2;
constexpr int64_t REACH = 64, CELLS_A_WORD = 4096;  // as in plain.py

// The arrays of arrays.py, in the order in which native.py hands them over.
struct Index {
    const uint8_t *classes;
    const uint64_t *word_keys;
    const int64_t *word_buckets;
    const int32_t *word_weights;
    const uint64_t *gram_keys;
    const int64_t *gram_buckets;
    const int64_t *gram_first;
    const int32_t *posting_item, *posting_at;
    const int64_t *part_first;
    const int32_t *part_words;
    const uint32_t *starts;  // by word: bit k is set where an n-gram of k words starts with it
    int word_bits, gram_bits;
    int64_t longest, num_words, num_items;
};

struct Word {
    int32_t number;  // -1: no item has it
    int64_t start, end;  // bytes
};

struct Span {
    int64_t weight, start, end;  // words [start, end)
};

constexpr Span NOTHING = {0, 0, 0};

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
        for (int64_t i = start; i < end; ++i) key = (key ^ text[i]) * 0x100000001B3ull;
        key = (key ^ key >> 33) * 0xFF51AFD7ED558CCDull;
        key ^= key >> 33;
        words.push_back({int32_t(look_up(index.word_keys, index.word_buckets, index.word_bits, key)), start, end});
    }
}

constexpr int64_t NEVER = INT64_MIN / 2;

// Kept from text to text: clearing arrays as long as the index would cost more than a short text does.
struct Scratch {
    std::vector<Word> words;
    std::vector<int32_t> left;  // by word: how many of a part are not met yet; all 0 between texts
    std::vector<int64_t> last;  // by item: where it was last looked for; all NEVER between texts
    std::vector<int64_t> asked;  // the items that are not NEVER
    std::vector<int64_t> best, start;

    void fit(const Index &index) {
        if (int64_t(left.size()) < index.num_words) left.resize(index.num_words, 0);
        if (int64_t(last.size()) < index.num_items) last.resize(index.num_items, NEVER);
        for (const int64_t item : asked) last[item] = NEVER;
        asked.clear();
        words.clear();
    }
};

class Search {
  public:
    Search(const Index &index, const std::vector<Word> &text, Scratch &scratch)
        : index_(index), text_(text), left_(scratch.left), best_(scratch.best), start_(scratch.start),
          cells_(CELLS_A_WORD * (int64_t(text.size()) + CELLS_A_WORD)) {}

    struct Part {
        const int32_t *words;
        int64_t length;
    };

    Part part(int64_t item, int which) const {
        const int64_t *first = index_.part_first + 3 * item + which;
        return {index_.part_words + first[0], first[1] - first[0]};
    }

    static int64_t slack(int64_t length) { return 4 + length / 4; }

    bool around(int64_t item, int64_t begin, int64_t floor_percent, Span (&found)[3]) {
        const Part question = part(item, 0);
        const int64_t low = std::max<int64_t>(0, begin - slack(question.length));
        const int64_t high = std::min(size(), begin + question.length + slack(question.length));
        int64_t least = 0;
        for (int64_t i = 0; i < question.length; ++i) least += index_.word_weights[question.words[i]];
        least *= floor_percent;
        found[0] = align(question, low, high, least);
        if (found[0].weight * 100 < least || !found[0].weight) return false;
        found[1] = beside(part(item, 1), found[0]);
        found[2] = beside(part(item, 2), found[0]);
        return true;
    }

    int64_t size() const { return int64_t(text_.size()); }

  private:
    Span beside(const Part &part, const Span &question) {
        const int64_t width = REACH + part.length + part.length / 4;
        const Span after = align(part, question.end, std::min(size(), question.end + width), 0);
        const Span before = align(part, std::max<int64_t>(0, question.start - width), question.start, 0);
        return before.weight > after.weight ? before : after;
    }

    Span align(const Part &part, int64_t low, int64_t high, int64_t least) {
        for (int64_t i = 0; i < part.length; ++i) ++left_[part.words[i]];
        int64_t bound = 0;
        for (int64_t at = low; at < high; ++at) {
            const int32_t word = text_[at].number;
            if (word >= 0 && left_[word] > 0) {
                --left_[word];
                bound += index_.word_weights[word];
            }
        }
        for (int64_t i = 0; i < part.length; ++i) left_[part.words[i]] = 0;
        if (bound * 100 < least || !bound) return NOTHING;
        const int64_t width = high - low;
        cells_ -= part.length * width;
        if (cells_ < 0) return {bound, low, high};
        best_.assign(width + 1, 0);
        start_.assign(width + 1, low);
        for (int64_t i = 0; i < part.length; ++i) {
            const int32_t word = part.words[i];
            const int64_t weight = index_.word_weights[word];
            int64_t diagonal = 0, diagonal_start = low;
            for (int64_t column = 1; column <= width; ++column) {
                const int64_t above = best_[column], above_start = start_[column];
                int64_t met = -1, met_start = 0;
                if (text_[low + column - 1].number == word) {
                    met = diagonal + weight;
                    met_start = diagonal ? diagonal_start : low + column - 1;
                }
                if (met >= above && met >= best_[column - 1]) {
                    best_[column] = met;
                    start_[column] = met_start;
                } else if (above < best_[column - 1]) {
                    best_[column] = best_[column - 1];
                    start_[column] = start_[column - 1];
                }
                diagonal = above;
                diagonal_start = above_start;
            }
        }
        int64_t end = 0;
        while (best_[end] != best_[width]) ++end;
        return {best_[width], start_[width], low + end};
    }

    const Index &index_;
    const std::vector<Word> &text_;
    std::vector<int32_t> &left_;
    std::vector<int64_t> &best_, &start_;
    int64_t cells_;
};

}  // namespace

extern "C" {

// Rows of ten numbers to `out`: item, then weight, first and last byte of question, answer and passage. Returns
// how many rows there are; those beyond `capacity` are not written. `arrays` and `sizes` are those of native.py.
int64_t search(const void *const *arrays, const int64_t *sizes, const uint8_t *text, int64_t length,
               int64_t floor_percent, int64_t *out, int64_t capacity) {
    const Index index = {
        (const uint8_t *)arrays[0], (const uint64_t *)arrays[1], (const int64_t *)arrays[2],
        (const int32_t *)arrays[3], (const uint64_t *)arrays[4], (const int64_t *)arrays[5],
        (const int64_t *)arrays[6], (const int32_t *)arrays[7],  (const int32_t *)arrays[8],
        (const int64_t *)arrays[9], (const int32_t *)arrays[10], (const uint32_t *)arrays[11],
        int(sizes[0]), int(sizes[1]), sizes[2], sizes[3], sizes[4],
    };
    static thread_local Scratch scratch;
    scratch.fit(index);
    std::vector<Word> &words = scratch.words;
    std::vector<int64_t> &last = scratch.last;
    read_words(index, text, length, words);
    Search task(index, words, scratch);
    int64_t rows = 0;
    for (int64_t at = 0; at < task.size(); ++at) {
        uint64_t key = 0;
        const uint32_t lengths = words[at].number < 0 ? 0 : index.starts[words[at].number];
        if (!lengths) continue;
        for (int64_t k = 1; k <= index.longest && at + k <= task.size(); ++k) {
            const int32_t word = words[at + k - 1].number;
            if (word < 0) break;
            key = (key ^ (uint64_t(word) + 1)) * 0x9E3779B97F4A7C15ull;
            key ^= key >> 29;
            if (!(lengths >> k & 1)) continue;
            const int64_t gram = look_up(index.gram_keys, index.gram_buckets, index.gram_bits, key);
            if (gram < 0) continue;
            for (int64_t post = index.gram_first[gram]; post < index.gram_first[gram + 1]; ++post) {
                const int64_t item = index.posting_item[post], begin = at - index.posting_at[post];
                const int64_t near = Search::slack(task.part(item, 0).length) / 2;
                const int64_t from = begin - last[item];
                if (from <= near && -from <= near) continue;
                if (last[item] == NEVER) scratch.asked.push_back(item);
                last[item] = begin;
                Span found[3];
                if (!task.around(item, begin, floor_percent, found)) continue;
                if (rows < capacity) {
                    int64_t *row = out + 10 * rows;
                    row[0] = item;
                    for (int i = 0; i < 3; ++i) {
                        const bool any = found[i].weight > 0;
                        row[3 * i + 1] = found[i].weight;
                        row[3 * i + 2] = any ? words[found[i].start].start : 0;
                        row[3 * i + 3] = any ? words[found[i].end - 1].end : 0;
                    }
                }
                ++rows;
            }
        }
    }
    return rows;
}

}  // extern "C"
