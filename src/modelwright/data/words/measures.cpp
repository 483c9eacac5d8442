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

    Joined(const Code* t, const int32_t* starts, const int32_t* ends, int64_t count, bool spaced) : gap(spaced) {
        uint64_t hash = 0;
        offsets.push_back(0);
        hashes.push_back(0);
        for (int64_t i = 0; i < count; ++i) {
            for (int64_t place = starts[i]; place < ends[i]; ++place) hash = add(hash, t[place]);
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

    int64_t length(int64_t first, int64_t words) const { return offsets[first + words] - offsets[first] - gap; }

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

// Runs of words that were seen, each with its first place and how often.
struct Seen {
    struct Slot {
        uint64_t hash;
        int32_t first, count;
    };
    Joined& joined;
    int64_t words;
    std::vector<Slot> slots;

    Seen(Joined& joined, int64_t words, int64_t most) : joined(joined), words(words) {
        size_t size = 16;
        while (int64_t(size) < 2 * most) size *= 2;
        slots.assign(size, {0, 0, 0});
    }

    Slot& at(int64_t first) {
        const uint64_t hash = joined.hash(first, words);
        size_t slot = (hash ^ hash >> 29) & (slots.size() - 1);
        while (slots[slot].count && !(slots[slot].hash == hash && joined.equal(slots[slot].first, first, words)))
            slot = (slot + 1) & (slots.size() - 1);
        if (!slots[slot].count) slots[slot] = {hash, int32_t(first), 0};
        return slots[slot];
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
        for (size_t j = 0; j < missing.size(); ++j)
            if (missing[j][0] == behind - first && !std::memcmp(missing[j] + 1, first, (behind - first) * sizeof(Code))) {
                missing.erase(missing.begin() + j);
                break;
            }
    }
    found[0] = words, found[1] = characters, found[2] = alphabetic, found[3] = asked - missing.size();
}

// Fills `found`, one value a size: for the first `num_top` sizes the characters of the most frequent run of
// so many words, times its count (-1: no run is so long); for the others the characters of repeated runs.
void measure_repeats(const Code* codes, const int32_t* spans, int64_t count, const int32_t* sizes, int64_t num_top,
                     int64_t num_sizes, int64_t* found) {
    std::vector<int32_t> starts(count), ends(count);
    for (int64_t i = 0; i < count; ++i) starts[i] = spans[2 * i], ends[i] = spans[2 * i + 1];
    Joined spaced(codes, starts.data(), ends.data(), num_top ? count : 0, true);
    Joined dense(codes, starts.data(), ends.data(), num_sizes > num_top ? count : 0, false);
    for (int64_t i = 0; i < num_sizes; ++i) {
        const int64_t words = sizes[i], runs = std::max<int64_t>(count - words + 1, 0);
        if (i < num_top) {
            Seen seen(spaced, words, runs);
            for (int64_t first = 0; first < runs; ++first) ++seen.at(first).count;
            int32_t most = 0, place = 0;
            for (const Seen::Slot& slot : seen.slots)
                if (slot.count > most || (slot.count == most && most && slot.first < place))
                    most = slot.count, place = slot.first;
            found[i] = runs ? most * spaced.length(place, words) : -1;
        } else {
            Seen seen(dense, words, runs);
            found[i] = 0;
            for (int64_t first = 0; first < runs;) {
                Seen::Slot& slot = seen.at(first);
                if (slot.count++) found[i] += dense.length(first, words), first += words;
                else ++first;
            }
        }
    }
}
}
