// The n-grams of features.py, compiled: the same buckets and counts.
//
// The text is UTF-8 already in lower case. Any bytes are safe: malformed sequences count as single marks, and
// the table of classes is asked only below its length.

#include <cstdint>
#include <new>
#include <vector>

namespace {

constexpr uint8_t SPACE = 0, WORD = 1, MARK = 2;  // as in native.py

struct Crc {  // CRC-32 as zlib's, byte by byte
    uint32_t table[256];
    constexpr Crc() : table() {
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
            table[i] = value;
        }
    }
    uint32_t operator()(const uint8_t* bytes, int64_t length) const {
        uint32_t value = ~0u;
        for (int64_t i = 0; i < length; ++i) value = value >> 8 ^ table[(value ^ bytes[i]) & 255];
        return ~value;
    }
};
constexpr Crc crc;

// The code point at `at`, which moves behind it. A malformed byte is a mark, as no code point is.
inline uint32_t next(const uint8_t* text, int64_t length, int64_t& at) {
    const uint8_t lead = text[at++];
    if (lead < 0x80) return lead;
    const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    if (!more || at + more > length) return ~0u;
    uint32_t point = lead & (0x3F >> more);
    for (int i = 0; i < more; ++i) point = point << 6 | (text[at + i] & 0x3F);
    at += more;
    return point;
}

// Ascending, by one byte after the other.
void sort(std::vector<uint32_t>& values, int64_t bits) {
    std::vector<uint32_t> other(values.size());
    for (int64_t shift = 0; shift < bits; shift += 8) {
        int64_t places[257] = {};
        for (const uint32_t value : values) ++places[(value >> shift & 255) + 1];
        for (int i = 0; i < 256; ++i) places[i + 1] += places[i];
        for (const uint32_t value : values) other[places[value >> shift & 255]++] = value;
        values.swap(other);
    }
}

}  // namespace

extern "C" {

// The buckets of all words and of all pairs of neighbours, ascending, each once, and how often it came; returns
// how many there are. `out` has room for `capacity` buckets and behind them as many counts; what is more is not
// written. -1 without memory.
int64_t count_ngrams(const uint8_t* text, int64_t length, const uint8_t* classes, int64_t num_classes,
                     int64_t bits, int64_t* out, int64_t capacity) try {
    std::vector<uint32_t> all;
    all.reserve(length / 2 + 16);
    const auto add = [&](uint64_t key) { all.push_back(key * 0xD6E8FEB86659FD93u >> (64 - bits)); };
    const auto class_of = [&](uint32_t point) { return point < num_classes ? classes[point] : MARK; };
    uint64_t before = 0;
    bool first = true;
    for (int64_t at = 0; at < length;) {
        const int64_t start = at;
        const uint8_t kind = class_of(next(text, length, at));
        if (kind == SPACE) continue;
        for (int64_t end = at; kind == WORD && end < length; at = end)
            if (class_of(next(text, length, end)) != WORD) break;
        const uint64_t key = crc(text + start, at - start);
        add(key);
        if (!first) add(before * 0x9E3779B97F4A7C15u + key + 1);
        before = key, first = false;
    }
    sort(all, bits);
    int64_t found = 0;
    for (int64_t i = 0, end, size = all.size(); i < size; i = end, ++found) {
        for (end = i + 1; end < size && all[end] == all[i];) ++end;
        if (found < capacity) out[found] = all[i], out[capacity + found] = end - i;
    }
    return found;
} catch (const std::bad_alloc&) {
    return -1;
}
}
