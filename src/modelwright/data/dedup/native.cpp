// The loops over every byte of a corpus that deduplication needs. Plain versions with the same results stand
// in normal.py, hashing.py, minhash.py, cluster.py and substring.py; native.py compiles and loads this file.
//
// All texts are UTF-8 in one array, with the places where each begins. Whatever the bytes are, nothing is read
// outside of the ranges that are handed over; broken UTF-8 gives some code point, the same each time. All
// arithmetic is modulo 2^64. Nothing is allocated that grows with a text.

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#ifdef __AVX512IFMA__
#include <immintrin.h>
#endif

namespace {

constexpr uint64_t BASE = 0x9E3779B97F4A7C15ull, WORDS = 0xD6E8FEB86659FD93ull;

inline uint64_t mix(uint64_t x) {  // splitmix64's finaliser (Steele et al. 2014)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

inline uint64_t power(uint64_t base, int64_t exponent) {
    uint64_t result = 1;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

// Reads a code point at `at` and steps over it. `at < end` on entry.
inline uint32_t decode(const uint8_t*& at, const uint8_t* end) {
    const uint32_t first = *at++;
    const int more = first < 0xC0 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : first < 0xF8 ? 3 : 0;
    if (more == 0) return first;
    uint32_t code = first & (0x3F >> more);
    for (int i = 0; i < more && at < end && (*at & 0xC0) == 0x80; ++i) code = code << 6 | (*at++ & 0x3F);
    return code < 0x110000 ? code : 0xFFFD;
}

enum Kind : uint32_t { WORD, DROP, SPACE, DIGIT, ALONE, SEPARATOR, MANY };

// normal.normalise, letter by letter. `use` gets the hash and the length of every word.
template <class Use>
void each_word(const uint8_t* at, const uint8_t* end, const uint32_t* table, const uint32_t* many, Use&& use) {
    uint64_t hash = 0;
    int64_t letters = 0;
    const auto letter = [&](uint32_t code) {
        hash = hash * BASE + code;
        ++letters;
    };
    const auto space = [&] {
        if (letters) use(mix(hash), letters);
        hash = letters = 0;
    };
    const auto digits = [&] {  // steps over digits
        while (at < end) {
            const uint8_t* next = at;
            if (table[decode(next, end)] >> 24 != DIGIT) return;
            at = next;
        }
    };
    uint8_t ascii[256];  // the letters that most letters of most texts become; 0: look closer
    for (int i = 0; i < 256; ++i) ascii[i] = i < 128 && table[i] >> 24 == WORD ? uint8_t(table[i]) : 0;
    while (true) {
        uint64_t run = hash;
        const uint8_t* next = at;
        for (; next < end && ascii[*next]; ++next) run = run * BASE + ascii[*next];
        letters += next - at;
        hash = run, at = next;
        if (at == end) break;
        const uint32_t found = table[decode(at, end)], value = found & 0xFFFFFF;
        const uint32_t kind = found >> 24;
        if (kind == WORD) {
            letter(value);
        } else if (kind == SPACE || kind == SEPARATOR) {
            space();
        } else if (kind == DIGIT) {  // digits, and once a separator and digits again: a single 0
            letter('0');
            digits();
            if (at < end) {
                const uint8_t* next = at;
                if (table[decode(next, end)] >> 24 == SEPARATOR && next < end) {
                    const uint8_t* after = next;
                    if (table[decode(after, end)] >> 24 == DIGIT) {
                        at = next;
                        digits();
                    }
                }
            }
        } else if (kind == ALONE) {
            space();
            letter(value);
            space();
        } else if (kind == MANY) {
            for (uint32_t i = 0; i < many[value]; ++i) {
                const uint32_t code = many[value + 1 + i];
                code == ' ' ? space() : letter(code);
            }
        }
    }
    space();
}

// Eight numbers that the compiler keeps in one vector register, or in several smaller ones.
using Eight = uint64_t __attribute__((vector_size(64), aligned(8)));

inline Eight& eight(uint64_t* at) { return *reinterpret_cast<Eight*>(at); }

constexpr uint64_t LOW52 = (uint64_t(1) << 52) - 1;

// The lower 52 bits of the products: processors with IFMA have one fast instruction for them, where a product
// of 64 bits takes eight times as long. Only the lower 52 bits of a and x count.
inline Eight product(Eight a, Eight x) {
#ifdef __AVX512IFMA__
    return reinterpret_cast<Eight>(_mm512_madd52lo_epu64(
        _mm512_setzero_si512(), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(x)));
#else
    return (a * x) & LOW52;
#endif
}

// The smallest hashes of a text so far, one for each order; padded to whole groups.
struct Minima {
    static constexpr int64_t GROUP = 16;
    std::vector<uint64_t> orders, smallest;

    Minima(const uint64_t* orders_, int64_t hashes) : orders(padded(hashes)), smallest(padded(hashes)) {
        std::memcpy(orders.data(), orders_, hashes * sizeof(uint64_t));
    }

    static int64_t padded(int64_t hashes) { return (hashes + GROUP - 1) / GROUP * GROUP; }

    void clear() { std::memset(smallest.data(), 0xFF, smallest.size() * sizeof(uint64_t)); }

    // smallest[j] = min(smallest[j], orders[j] x) for every x. Two vectors at a time stay in registers.
    void lower(const uint64_t* x, int64_t count) {
        for (size_t j = 0; j < smallest.size(); j += GROUP) {
            const Eight order0 = eight(&orders[j]), order1 = eight(&orders[j + 8]);
            Eight low0 = eight(&smallest[j]), low1 = eight(&smallest[j + 8]);
            for (int64_t i = 0; i < count; ++i) {
                const Eight all = x[i] - Eight{};  // x[i] in all eight places
                const Eight value0 = product(order0, all), value1 = product(order1, all);
                low0 = value0 < low0 ? value0 : low0;
                low1 = value1 < low1 ? value1 : low1;
            }
            eight(&smallest[j]) = low0;
            eight(&smallest[j + 8]) = low1;
        }
    }
};

struct Corpus {  // texts in units, addressed by their place in all of them
    const uint8_t* const* units;
    const int64_t* begins;
    int64_t count;

    const uint8_t* at(int64_t position) const {
        int64_t low = 0, high = count;  // begins[low] <= position < begins[high]
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            (begins[middle] <= position ? low : high) = middle;
        }
        return units[low] + (position - begins[low]);
    }
};

// For every window of `length` bytes that begins in [start, stop): use(its begin, the place of its minimizer,
// the minimizer's hash). The minimizer is the last of the smallest hashes of `gram` bytes in the window.
template <class Use>
void each_window(const uint8_t* text, int64_t start, int64_t stop, int64_t gram, int64_t length,
                 std::vector<uint64_t>& ring, Use&& use) {
    const int64_t grams = length - gram + 1;  // in a window
    const uint64_t leaving = power(BASE, gram - 1);
    uint64_t* const recent = ring.data();  // the hashes of the window's grams, at their place modulo its size
    const int64_t mask = int64_t(ring.size()) - 1;
    uint64_t rolling = 0;
    for (int64_t i = start; i < start + gram - 1; ++i) rolling = rolling * BASE + text[i];
    int64_t place = -1;
    uint64_t smallest = 0;
    for (int64_t i = start; i < stop + grams - 1; ++i) {
        rolling = rolling * BASE + text[i + gram - 1];
        const uint64_t hash = mix(rolling);
        rolling -= leaving * text[i];
        recent[i & mask] = hash;
        const int64_t begin = i - grams + 1;  // of the window that ends with this gram
        if (place < 0 || hash <= smallest) {
            smallest = hash, place = i;
        } else if (place < begin) {
            smallest = hash, place = i;
            for (int64_t j = i - 1; j >= begin; --j)
                if (recent[j & mask] < smallest) smallest = recent[j & mask], place = j;
        }
        if (begin >= start) use(begin, place, smallest);
    }
}

std::vector<uint64_t> ring_for(int64_t grams) {
    int64_t size = 1;
    while (size < grams) size *= 2;
    return std::vector<uint64_t>(size);
}

}  // namespace

extern "C" {

// out: (documents, hashes). offsets: (documents + 1). Returns 0, or -1 without memory.
int64_t signatures(const uint8_t* text, const int64_t* offsets, int64_t documents, const uint32_t* table,
                   const uint32_t* many, int64_t ngram, const uint64_t* orders, int64_t hashes, uint64_t* out) try {
    constexpr int64_t BLOCK = 1024;
    std::vector<uint64_t> words(BLOCK + ngram), shingles(BLOCK + ngram);
    Minima minima(orders, hashes);
    for (int64_t d = 0; d < documents; ++d) {
        minima.clear();
        int64_t count = 0;
        bool any = false;
        const auto flush = [&](int64_t size) {  // all shingles of `size` words, which lie in the buffer
            const int64_t made = count - size + 1;
            for (int64_t i = 0; i < made; ++i) shingles[i] = words[i];
            for (int64_t k = 1; k < size; ++k)
                for (int64_t i = 0; i < made; ++i) shingles[i] = shingles[i] * WORDS + words[i + k];
            for (int64_t i = 0; i < made; ++i) shingles[i] = mix(shingles[i]);
            minima.lower(shingles.data(), made);
            std::memmove(words.data(), words.data() + made, (size - 1) * sizeof(uint64_t));
            count = size - 1;
            any = true;
        };
        each_word(text + offsets[d], text + offsets[d + 1], table, many, [&](uint64_t hash, int64_t) {
            words[count++] = hash;
            if (count == BLOCK + ngram) flush(ngram);
        });
        if (count >= ngram)
            flush(ngram);
        else if (!any && count)  // fewer words than a shingle has: one shingle of what there is
            flush(count);
        std::memcpy(out + d * hashes, minima.smallest.data(), hashes * sizeof(uint64_t));
    }
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

// The hash of the words of each piece text[starts[i] : ends[i]], and how many letters they have.
void hash_pieces(const uint8_t* text, const int64_t* starts, const int64_t* ends, int64_t pieces,
                 const uint32_t* table, const uint32_t* many, uint64_t* hashes, int64_t* letters) {
    for (int64_t i = 0; i < pieces; ++i) {
        uint64_t hash = 0;
        int64_t total = 0;
        each_word(text + starts[i], text + ends[i], table, many, [&](uint64_t word, int64_t length) {
            hash = hash * WORDS + word;
            total += length;
        });
        hashes[i] = mix(hash);
        letters[i] = total;
    }
}

// Unites left[i] with right[i]. parent[i] <= i; a root is its own parent, and the smallest of its cluster.
void unite(int64_t* parent, const int64_t* left, const int64_t* right, int64_t pairs) {
    const auto root = [&](int64_t i) {
        while (parent[i] != i) i = parent[i] = parent[parent[i]];  // halves the path
        return i;
    };
    for (int64_t i = 0; i < pairs; ++i) {
        const int64_t one = root(left[i]), other = root(right[i]);
        (one < other ? parent[other] : parent[one]) = one < other ? one : other;
    }
}

// Every minimizer of the windows that begin in [starts[r], stops[r]), once a range. Returns their number.
int64_t minimizers(const uint8_t* text, const int64_t* starts, const int64_t* stops, int64_t ranges,
                   int64_t gram, int64_t length, uint64_t* hashes, int64_t* places) try {
    auto ring = ring_for(length - gram + 1);
    int64_t count = 0;
    for (int64_t r = 0; r < ranges; ++r) {
        int64_t last = -1;
        each_window(text, starts[r], stops[r], gram, length, ring,
                    [&](int64_t, int64_t place, uint64_t hash) {
                        if (place == last) return;
                        hashes[count] = hash, places[count++] = last = place;
                    });
    }
    return count;
} catch (const std::bad_alloc&) {
    return -1;
}

// The hash of every window whose minimizer is among `suspects` (sorted), and where it begins.
int64_t windows(const uint8_t* text, const int64_t* starts, const int64_t* stops, int64_t ranges, int64_t gram,
                int64_t length, const int64_t* suspects, int64_t num_suspects, uint64_t* hashes,
                int64_t* begins) try {
    auto ring = ring_for(length - gram + 1);
    const uint64_t leaving = power(BASE, length - 1);
    int64_t count = 0, next = 0;
    for (int64_t r = 0; r < ranges; ++r) {
        int64_t rolled = -2;  // the window whose hash `rolling` is
        uint64_t rolling = 0;
        while (next > 0 && suspects[next - 1] >= starts[r]) --next;  // ranges of a document overlap
        each_window(text, starts[r], stops[r], gram, length, ring, [&](int64_t begin, int64_t place, uint64_t) {
            while (next < num_suspects && suspects[next] < place) ++next;
            if (next == num_suspects || suspects[next] != place) return;
            if (rolled == begin - 1) {
                rolling = (rolling - leaving * text[begin - 1]) * BASE + text[begin + length - 1];
            } else {
                rolling = 0;
                for (int64_t i = begin; i < begin + length; ++i) rolling = rolling * BASE + text[i];
            }
            rolled = begin;
            hashes[count] = mix(rolling), begins[count++] = begin;
        });
    }
    return count;
} catch (const std::bad_alloc&) {
    return -1;
}

// first[i]: the first of the windows before i, or i itself, that has the same hash and the same bytes.
// Equal hashes stand together. Hashes only sort: whether windows are equal is decided by their bytes.
int64_t first_equal(const uint8_t* const* units, const int64_t* begins, int64_t num_units,
                    const uint64_t* hashes, const int64_t* positions, int64_t count, int64_t length,
                    int64_t* first) try {
    const Corpus corpus{units, begins, num_units};
    std::vector<int64_t> distinct;
    for (int64_t i = 0; i < count; ++i) {
        if (i == 0 || hashes[i] != hashes[i - 1]) distinct.clear();
        const uint8_t* const mine = corpus.at(positions[i]);
        first[i] = -1;
        for (const int64_t position : distinct)
            if (std::memcmp(corpus.at(position), mine, length) == 0) {
                first[i] = position;
                break;
            }
        if (first[i] < 0) distinct.push_back(first[i] = positions[i]);
    }
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

}
