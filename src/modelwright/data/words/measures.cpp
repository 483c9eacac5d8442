// What is counted over words: the same as measures.py in plain Python, compiled.
//
// Text comes as UTF-32 and words as pairs of places in it (words.cpp). SYMBOL and ALPHABETIC are bits of the
// table of code points (kinds.py), given by the compiler's command line.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Code = uint32_t;

bool is_same(Code a, int32_t b) { return a == Code(b); }

// Words side by side, with or without a space between, and hashes of all runs of words: the polynomial
// hash of Karp and Rabin modulo the prime 2^61 - 1. Runs of equal hash are compared letter by letter.
struct Joined {
    static constexpr uint64_t PRIME = (uint64_t(1) << 61) - 1, BASE = 0x1B873593CC9E2D51u % PRIME;
    std::vector<Code> codes;
    std::vector<int64_t> offsets;
    std::vector<uint64_t> hashes, powers;
    int64_t gap;

    static uint64_t times(uint64_t a, uint64_t b) {
        const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
        const uint64_t sum = uint64_t(product & PRIME) + uint64_t(product >> 61);
        return sum >= PRIME ? sum - PRIME : sum;
    }

    Joined(const Code* t, const int32_t* spans, int64_t count, bool spaced) : gap(spaced) {
        uint64_t hash = 0;
        codes.reserve(count ? spans[2 * count - 1] - spans[0] + count : 0);
        offsets.push_back(0);
        hashes.push_back(0);
        for (int64_t i = 0; i < count; ++i) {
            for (int64_t place = spans[2 * i]; place < spans[2 * i + 1]; ++place) hash = add(hash, t[place]);
            if (spaced) hash = add(hash, ' ');
            offsets.push_back(codes.size());
            hashes.push_back(hash);
        }
        powers.push_back(1);
    }

    uint64_t add(uint64_t hash, Code code) {
        codes.push_back(code);
        const uint64_t sum = times(hash, BASE) + code + 1;
        return sum >= PRIME ? sum - PRIME : sum;
    }

    int64_t length(int64_t first, int64_t words) const {
        return offsets[first + words] - offsets[first] - gap;
    }

    uint64_t hash(int64_t first, int64_t words) {
        const uint64_t size = offsets[first + words] - offsets[first];
        while (powers.size() <= size) powers.push_back(times(powers.back(), BASE));
        const uint64_t before = times(hashes[first], powers[size]);
        const uint64_t behind = hashes[first + words];
        return behind >= before ? behind - before : behind + PRIME - before;
    }

    bool equal(int64_t a, int64_t b, int64_t words) const {
        const int64_t size = offsets[a + words] - offsets[a];
        return offsets[b + words] - offsets[b] == size &&
               !std::memcmp(&codes[offsets[a]], &codes[offsets[b]], size * sizeof(Code));
    }
};

// Runs of words that were seen, each by its first place, and how often. Half of the hash finds the slot, half
// of it is kept to tell most others apart.
struct Seen {
    struct Slot {
        uint32_t tag;
        int32_t first;  // -1: free
    };
    Joined& joined;
    int64_t words;
    std::vector<Slot> slots;

    Seen(Joined& joined, int64_t words, int64_t most) : joined(joined), words(words) {
        size_t size = 16;
        while (int64_t(size) < 2 * most) size *= 2;
        slots.assign(size, {0, -1});
    }

    // The place at which this run was seen first: this one if it was not.
    int64_t first_of(int64_t place) {
        const uint64_t hash = joined.hash(place, words);
        const uint32_t tag = uint32_t(hash);
        for (size_t slot = (hash >> 29) & (slots.size() - 1);; slot = (slot + 1) & (slots.size() - 1)) {
            Slot& found = slots[slot];
            if (found.first < 0) return found = {tag, int32_t(place)}, place;
            if (found.tag == tag && joined.equal(found.first, place, words)) return found.first;
        }
    }
};

}  // namespace

extern "C" {

// Fills `found`: words that are more than symbols, their characters, words with a letter, stop words that
// occur. `stop`: how many stop words, then each as its length and its codes.
void measure_words(const uint16_t* kinds, const Code* codes, const int32_t* spans, int64_t count,
                   const int32_t* stop, int64_t* found) {
    std::vector<const int32_t*> missing;
    for (int32_t i = 0, left = stop[0], place = 1; i < left; ++i, place += 1 + stop[place])
        missing.push_back(stop + place);
    const size_t asked = missing.size();
    int64_t words = 0, characters = 0, alphabetic = 0;
    for (int64_t i = 0; i < count; ++i) {
        const Code *first = codes + spans[2 * i], *behind = codes + spans[2 * i + 1];
        int all = SYMBOL, any = 0;
        for (const Code* c = first; c < behind; ++c) all &= kinds[*c], any |= kinds[*c];
        if (!all) ++words, characters += behind - first;
        alphabetic += (any & ALPHABETIC) != 0;
        const auto same = std::find_if(missing.begin(), missing.end(), [&](const int32_t* word) {
            return word[0] == behind - first && std::equal(first, behind, word + 1, is_same);
        });
        if (same != missing.end()) missing.erase(same);
    }
    found[0] = words, found[1] = characters, found[2] = alphabetic, found[3] = asked - missing.size();
}

// Fills `found`, one value a size: for the first `num_top` sizes the characters of the most frequent run of
// so many words, times its count (-1: no run is so long); for the others the characters of repeated runs.
void measure_repeats(const Code* codes, const int32_t* spans, int64_t count, const int32_t* sizes,
                     int64_t num_top, int64_t num_sizes, int64_t* found) {
    Joined spaced(codes, spans, num_top ? count : 0, true);
    Joined dense(codes, spans, num_sizes > num_top ? count : 0, false);
    std::vector<int32_t> counts;
    for (int64_t i = 0; i < num_sizes; ++i) {
        const int64_t words = sizes[i], runs = std::max<int64_t>(count - words + 1, 0);
        Joined& joined = i < num_top ? spaced : dense;
        Seen seen(joined, words, runs);
        if (i < num_top) {
            counts.assign(runs, 0);
            for (int64_t place = 0; place < runs; ++place) ++counts[seen.first_of(place)];
            const int64_t most = std::max_element(counts.begin(), counts.end()) - counts.begin();
            found[i] = runs ? counts[most] * joined.length(most, words) : -1;
            continue;
        }
        found[i] = 0;
        for (int64_t place = 0; place < runs;) {
            const bool again = seen.first_of(place) != place;
            if (again) found[i] += joined.length(place, words);
            place += again ? words : 1;
        }
    }
}
}
