// fastText's prediction for one text, compiled: the same sums in the same order, so the same probabilities.
//
// Any bytes are safe: nothing is read behind `length`, and every look-up is within the tables, which model.py
// has checked. Text is cut at what Python's str.split() takes for white space, and at NUL, as fastText does.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace {

constexpr int DIM = 16;
constexpr char END[] = "</s>", LABEL[] = "__label__";

struct Model {
    const float *vectors, *nodes;  // of Python's arrays, which live as long
    const int32_t* children;
    int64_t num_words, num_buckets, shortest, longest, num_languages;
    std::vector<std::string> words;
    std::vector<int32_t> slots;       // hash of a word -> its number, -1: none
    std::vector<uint64_t> has;        // a bit for each bucket: whether its pieces have a vector
    std::vector<uint32_t> before;     // how many bits are set before each 64 of them
};

// FNV-1a, into which fastText's bytes go with their sign.
struct Hash {
    uint32_t value = 2166136261u;
    void add(uint8_t byte) { value = (value ^ uint32_t(int8_t(byte))) * 16777619u; }
};

uint32_t hash_of(const uint8_t* bytes, int64_t length) {
    Hash hash;
    for (int64_t i = 0; i < length; ++i) hash.add(bytes[i]);
    return hash.value;
}

int32_t number_of(const Model& model, const uint8_t* word, int64_t length) {
    const size_t mask = model.slots.size() - 1;
    for (size_t slot = hash_of(word, length) & mask; model.slots[slot] >= 0; slot = (slot + 1) & mask) {
        const std::string& known = model.words[model.slots[slot]];
        if (int64_t(known.size()) == length && !std::memcmp(known.data(), word, length))
            return model.slots[slot];
    }
    return -1;
}

// The sum of a text's vectors, in the order in which fastText adds them. They wait here until there are many:
// so a piece is written down without asking whether it has a vector, and the sum stays in registers.
struct Sum {
    static constexpr int64_t ROOM = 1024;
    float values[DIM] = {};
    int64_t count = 0, waiting = 0;
    const float* vectors[ROOM];

    void make_room(int64_t more) {  // at most ROOM
        if (waiting + more > ROOM) settle();
    }
    void add(const float* vector, bool present = true) {
        vectors[waiting] = vector;
        waiting += present;
    }
    void settle() {
        for (int64_t row = 0; row < waiting; ++row)
            for (int i = 0; i < DIM; ++i) values[i] += vectors[row][i];
        count += waiting, waiting = 0;
    }
};

void add_piece(const Model& model, uint32_t hash, Sum& sum) {
    const uint32_t bucket = hash % uint32_t(model.num_buckets);
    const uint64_t bits = model.has[bucket >> 6], bit = bucket & 63;
    const int64_t row = model.before[bucket >> 6] + __builtin_popcountll(bits & ((uint64_t(1) << bit) - 1));
    sum.add(model.vectors + (model.num_words + row) * DIM, bits >> bit & 1);
}

// `framed` is "<word>"; pieces begin and end at characters.
void add_pieces(const Model& model, const std::vector<uint8_t>& framed, Sum& sum) {
    const int64_t size = framed.size();
    for (int64_t start = 0; start < size; ++start) {
        if ((framed[start] & 0xC0) == 0x80) continue;
        sum.make_room(model.longest);
        Hash hash;
        for (int64_t end = start, n = 1; end < size && n <= model.longest; ++n) {
            do hash.add(framed[end++]);
            while (end < size && (framed[end] & 0xC0) == 0x80);
            if (n >= model.shortest) add_piece(model, hash.value, sum);
        }
    }
}

bool equals(const char* mark, const uint8_t* word, int64_t length, bool whole) {
    const int64_t size = std::strlen(mark);
    return (whole ? length == size : length >= size) && !std::memcmp(mark, word, size);
}

// Adds a word; false where the text ends with it.
bool add_word(const Model& model, const uint8_t* word, int64_t length, std::vector<uint8_t>& framed,
              Sum& sum) {
    if (equals(LABEL, word, length, false)) return true;  // names a language in training texts
    const int32_t number = number_of(model, word, length);
    sum.make_room(1);
    if (number >= 0) sum.add(model.vectors + number * DIM);
    if (equals(END, word, length, true)) return false;
    framed.assign(1, '<');
    framed.insert(framed.end(), word, word + length);
    framed.push_back('>');
    add_pieces(model, framed, sum);
    return true;
}

// How many bytes of white space stand at `text`; 0 for none.
int64_t space(const uint8_t* text, int64_t left) {
    const uint8_t first = text[0];
    if (first < 0x80)
        return first == ' ' || (first >= 9 && first <= 13) || (first >= 28 && first <= 31) || !first;
    if (first == 0xC2) return left >= 2 && (text[1] == 0x85 || text[1] == 0xA0) ? 2 : 0;
    if (left < 3 || first < 0xE1 || first > 0xE3) return 0;
    const int code = (first & 15) << 12 | (text[1] & 63) << 6 | (text[2] & 63);
    return code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
                   code == 0x202F || code == 0x205F || code == 0x3000
               ? 3
               : 0;
}

float log_of(float share) { return std::log(share + 1e-5); }  // fastText's, so that there is no log of 0

// The likeliest leaf below `node`: a branch that has fallen below the best leaf so far is left.
void descend(const Model& model, const float* mean, int32_t node, float score, int64_t& best,
             float& best_score) {
    if (score < log_of(0) || (best >= 0 && score < best_score)) return;
    if (node < model.num_languages) {
        best = node, best_score = score;
        return;
    }
    const int64_t inner = node - model.num_languages;
    float dot = 0;
    for (int i = 0; i < DIM; ++i) dot += model.nodes[inner * DIM + i] * mean[i];
    const float right = 1.0 / (1 + std::exp(-dot));
    descend(model, mean, model.children[2 * inner], score + log_of(1.0 - right), best, best_score);
    descend(model, mean, model.children[2 * inner + 1], score + log_of(right), best, best_score);
}

}  // namespace

extern "C" {

// words: `num_words` strings, each with a NUL behind it. sizes: words, pieces, buckets, shortest, longest,
// languages. The model lives as long as the process. Null without memory.
Model* open_model(const char* words, const int32_t* pieces, const float* vectors, const float* nodes,
                  const int32_t* children, const int64_t* sizes) try {
    auto* model = new Model{vectors,  nodes,    children, sizes[0], sizes[2], sizes[3],
                            sizes[4], sizes[5], {},       {},       {},       {}};
    size_t size = 16;
    while (size < size_t(4 * sizes[0])) size *= 2;
    model->slots.assign(size, -1);
    for (int64_t i = 0; i < sizes[0]; ++i) {
        model->words.emplace_back(words);
        const std::string& word = model->words.back();
        words += word.size() + 1;
        size_t slot = hash_of(reinterpret_cast<const uint8_t*>(word.data()), word.size()) & (size - 1);
        while (model->slots[slot] >= 0) slot = (slot + 1) & (size - 1);
        model->slots[slot] = i;
    }
    model->has.assign(sizes[2] / 64 + 1, 0);
    for (int64_t i = 0; i < sizes[1]; ++i) model->has[pieces[i] >> 6] |= uint64_t(1) << (pieces[i] & 63);
    uint32_t before = 0;
    for (const uint64_t bits : model->has) {
        model->before.push_back(before);
        before += __builtin_popcountll(bits);
    }
    return model;
} catch (const std::bad_alloc&) {
    return nullptr;
}

// Whether over 80 % of the letters from A to Z are capitals.
int64_t shouts(const uint8_t* text, int64_t length) {
    int64_t upper = 0, lower = 0;
    for (int64_t i = 0; i < length; ++i) {
        upper += uint8_t(text[i] - 'A') < 26;
        lower += uint8_t(text[i] - 'a') < 26;
    }
    return 5 * upper > 4 * (upper + lower);
}

// The number of the likeliest language of a UTF-8 text, its probability in `score`; -1 without memory.
int64_t detect(const Model* model, const uint8_t* text, int64_t length, float* score) try {
    Sum sum;
    std::vector<uint8_t> framed;
    bool open = true;
    for (int64_t at = 0; open && at < length;) {
        if (const int64_t gap = space(text + at, length - at)) {
            at += gap;
            continue;
        }
        const int64_t start = at;
        while (at < length && !space(text + at, length - at)) ++at;
        open = add_word(*model, text + start, at - start, framed, sum);
    }
    if (open) add_word(*model, reinterpret_cast<const uint8_t*>(END), sizeof END - 1, framed, sum);
    sum.settle();
    const float share = 1.0 / sum.count;
    float mean[DIM];
    for (int i = 0; i < DIM; ++i) mean[i] = sum.values[i] * share;
    int64_t best = -1;
    float best_score = 0;
    descend(*model, mean, 2 * model->num_languages - 2, 0, best, best_score);
    *score = std::exp(best_score);
    return best;
} catch (const std::bad_alloc&) {
    return -1;
}
}
