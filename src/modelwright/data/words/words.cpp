// Words and sentences: the same as plain.py, compiled.
//
// Text comes as UTF-32, so that places and lengths are characters, as they are in Python. What a character
// is comes from one table of bits (kinds.py), whose names are given by the compiler's command line: SPACE,
// LETTER and so on. Functions take a text and the places `start` and `end` in it, and read nothing outside.
// The comments here say how; plain.py says what and why.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Code = uint32_t;

struct Span {
    int64_t start, end;
};

// An exception or a unit. `pieces` are the lengths into which an exception is cut, `pattern` the lengths of
// the pieces from which it is put together again (none: it never is).
struct Entry {
    std::vector<Code> codes;
    bool exception, unit;
    std::vector<int32_t> pieces, pattern;
};

uint64_t hash_of(const Code* codes, int64_t length) {
    uint64_t hash = 0x9E3779B97F4A7C15u;
    for (int64_t i = 0; i < length; ++i) hash = (hash ^ codes[i]) * 0xD6E8FEB86659FD93u, hash ^= hash >> 32;
    return hash;
}

// Strings -> entries. Nearly all that is asked for is absent, which the first letter and the length tell.
struct Table {
    std::vector<Entry> entries;
    std::vector<int32_t> slots;
    uint64_t lengths_of_first[128] = {}, lengths_of_others = 0;
    int64_t longest = 0, longest_pattern = 0;

    uint64_t& lengths(Code first) { return first < 128 ? lengths_of_first[first] : lengths_of_others; }

    void build() {
        size_t size = 16;
        while (size < 4 * entries.size()) size *= 2;
        slots.assign(size, -1);
        for (size_t i = 0; i < entries.size(); ++i) {
            const Entry& entry = entries[i];
            const int64_t length = entry.codes.size();
            size_t slot = hash_of(entry.codes.data(), length) & (size - 1);
            while (slots[slot] >= 0) slot = (slot + 1) & (size - 1);
            slots[slot] = i;
            lengths(entry.codes[0]) |= uint64_t(1) << std::min<int64_t>(length, 63);
            longest = std::max(longest, length);
            longest_pattern = std::max<int64_t>(longest_pattern, entry.pattern.size());
        }
    }

    const Entry* find(const Code* codes, int64_t length) {
        if (length < 1 || length > longest) return nullptr;
        if (!(lengths(codes[0]) >> std::min<int64_t>(length, 63) & 1)) return nullptr;
        for (size_t slot = hash_of(codes, length) & (slots.size() - 1); slots[slot] >= 0;
             slot = (slot + 1) & (slots.size() - 1)) {
            const Entry& entry = entries[slots[slot]];
            if (int64_t(entry.codes.size()) == length &&
                !std::memcmp(entry.codes.data(), codes, length * sizeof(Code)))
                return &entry;
        }
        return nullptr;
    }
};

bool is_digit(Code c) { return c - '0' < 10; }
bool is_one_of(const char* marks, Code c) { return c > 0 && c < 128 && std::strchr(marks, int(c)); }
bool is_ascii_letter(Code c) { return (c | 32) - 'a' < 26; }

// One language's rules, and room to work in.
struct Splitter {
    const uint16_t* kinds;  // 0x110000 of them
    bool letters_apart;     // letters of scripts without spaces are words
    int64_t longest_unit = 0;
    Table table;
    std::vector<Span> spans, suffixes, joined;
    std::vector<int32_t> chosen;
    std::vector<char> seen;

    int kind(Code c) const { return c < 0x110000 ? kinds[c] : 0; }

    bool all_are(int bit, const Code* t, int64_t start, int64_t end) const {
        return std::all_of(t + start, t + end, [&](Code c) { return (kind(c) & bit) != 0; });
    }

    const Entry* exception(const Code* t, int64_t start, int64_t end) {
        const Entry* entry = table.find(t + start, end - start);
        return entry && entry->exception ? entry : nullptr;
    }

    static int64_t dots(const Code* t, int64_t start, int64_t end) {
        int64_t place = start;
        while (place < end && t[place] == '.') ++place;
        return place - start > 1 ? place - start : 0;
    }

    static bool stands(const char* mark, const Code* t, int64_t start, int64_t end) {
        for (; *mark; ++mark, ++start)
            if (start >= end || t[start] != Code(*mark)) return false;
        return true;
    }

    int64_t prefix_length(const Code* t, int64_t start, int64_t end) {
        if (start == end) return 0;
        const Code first = t[start];
        if (first == '.') return dots(t, start, end);
        if (first == '+') return !(start + 1 < end && is_digit(t[start + 1]));
        if (stands("US$", t, start, end)) return 3;
        if (stands("C$", t, start, end) || stands("A$", t, start, end)) return 2;
        return (kind(first) & PREFIX) != 0;
    }

    int64_t suffix_length(const Code* t, int64_t start, int64_t end) {
        if (start == end) return 0;
        const Code last = t[end - 1];
        if (last == '.') return stop_length(t, start, end);
        for (int64_t length = std::min(longest_unit, end - start - 1); length > 0; --length) {
            if (!is_digit(t[end - length - 1])) continue;
            const Entry* entry = table.find(t + end - length, length);
            if ((entry && entry->unit) || (length == 1 && last == '+')) return length;
        }
        if (end - start > 1) {
            const Code before = t[end - 2];
            if ((last | 32) == 's' && (before == '\'' || before == 0x2019)) return 2;
            if (last == 0x2026 && before == 0x2026) return 2;
        }
        return (kind(last) & SUFFIX) != 0;
    }

    int64_t stop_length(const Code* t, int64_t start, int64_t end) {
        int64_t first = end - 1;
        while (first > start && t[first - 1] == '.') --first;
        if (end - first > 1) return end - first;
        if (first == start) return 0;
        const Code before = t[first - 1];
        if (kind(before) & BEFORE_STOP) return 1;
        if (first - start < 2) return 0;
        const Code earlier = t[first - 2];
        if (earlier == 0xB0 && (before == 'F' || before == 'C' || before == 'K')) return 1;
        return (kind(before) & kind(earlier) & UPPER) != 0;
    }

    int64_t infix_length(const Code* t, int64_t start, int64_t place, int64_t end) {
        const Code mark = t[place];
        if (kind(mark) & (LETTER | NUMBER)) return 0;
        if (int64_t run = dots(t, place, end)) return run;
        if (mark == 0x2026 || kind(mark) & ICON) return 1;
        if (place == start || place + 1 == end) return 0;
        const Code before = t[place - 1], behind = t[place + 1];
        const bool digit = is_digit(before);
        if (digit && is_one_of("+-*^", mark) && (is_digit(behind) || behind == '-')) return 1;
        const int left = kind(before), right = kind(behind);
        if (mark == '.') return left & (LOWER | QUOTE) && right & (UPPER | QUOTE);
        if (mark == ',') return (left & right & LETTER) != 0;
        if (!digit && !(left & LETTER)) return 0;
        if (is_one_of(":<>=/", mark)) return (right & LETTER) != 0;
        if (mark != '-' && mark != '~' && mark != 0x2013 && mark != 0x2014) return 0;
        if (right & LETTER) return 1;
        const int64_t most = mark == '-' ? 3 : mark == 0x2014 ? 2 : 1;
        for (int64_t length = 2; length <= most; ++length) {
            if (place + length >= end || t[place + length - 1] != mark) break;
            if (kind(t[place + length]) & LETTER) return length;
        }
        return 0;
    }

    static bool in_host(Code c) { return is_digit(c) || is_ascii_letter(c) || (c >= 0xA1 && c <= 0xFFFF); }

    bool is_label(const Code* t, int64_t start, int64_t end) {
        if (end - start < 1 || end - start > 64 || !in_host(t[start]) || !in_host(t[end - 1])) return false;
        return std::all_of(t + start, t + end, [](Code c) { return c == '_' || c == '-' || in_host(c); });
    }

    bool is_top(const Code* t, int64_t start, int64_t end) {
        if (end - start < 2 || end - start > 63) return false;
        return all_are(LOWER, t, start, end);
    }

    static bool is_address(const Code* t, const Span* parts) {
        int values[4];
        for (int i = 0; i < 4; ++i) {
            const int64_t start = parts[i].start, length = parts[i].end - start;
            if (length < 1 || length > 3) return false;
            values[i] = 0;
            for (int64_t place = start; place < parts[i].end; ++place) {
                if (!is_digit(t[place])) return false;
                values[i] = values[i] * 10 + int(t[place] - '0');
            }
            if (t[start] == '0' && (i == 0 || i == 3 || length == 3)) return false;
        }
        const int first = values[0], second = values[1];
        if (first == 10 || first == 127 || (first == 169 && second == 254)) return false;
        if ((first == 192 && second == 168) || (first == 172 && second >= 16 && second <= 31)) return false;
        return first <= 223 && second <= 255 && values[2] <= 255 && values[3] <= 254;
    }

    bool is_host(const Code* t, int64_t start, int64_t end) {
        Span parts[4];
        int64_t labels = 0, place = start, begin = start;
        for (; place < end && !is_one_of(":/?#", t[place]); ++place) {
            if (t[place] == '.') {
                if (!is_label(t, begin, place)) return false;
                if (labels < 4) parts[labels] = {begin, place};
                ++labels;
                begin = place + 1;
            } else if (place - begin > 64) {
                return false;
            }
        }
        if (labels == 0) return false;
        if (!is_top(t, begin, place)) {
            if (labels != 3) return false;
            parts[3] = {begin, place};
            if (!is_address(t, parts)) return false;
        }
        if (place < end && t[place] == ':') {
            int64_t port = place + 1;
            while (port < end && kind(t[port]) & DECIMAL) ++port;
            if (port - place - 1 < 2 || port - place - 1 > 5) return false;
            place = port;
        }
        return place == end || is_one_of("/?#", t[place]);
    }

    bool is_url(const Code* t, int64_t start, int64_t end) {
        if (std::find(t + start, t + end, Code('.')) == t + end) return false;  // no host without
        if (is_host(t, start, end)) return true;
        int64_t scheme = start;
        const int letters = ALPHABETIC | NUMBER;
        while (scheme < end && (is_one_of("_+-.", t[scheme]) || kind(t[scheme]) & letters)) ++scheme;
        if (scheme - start > 1 && stands("://", t, scheme, end) && is_host(t, scheme + 3, end)) return true;
        for (int64_t at = start + 1; at < end; ++at)
            if (t[at] == '@' && is_host(t, at + 1, end)) return true;
        return false;
    }

    void add(int64_t start, int64_t end) { spans.push_back({start, end}); }

    void split(const Code* t, int64_t start, int64_t end) {
        spans.clear();
        suffixes.clear();
        while (start < end && !exception(t, start, end)) {
            const int64_t prefix = prefix_length(t, start, end);
            if (prefix && exception(t, start + prefix, end)) {
                add(start, start + prefix);
                start += prefix;
                break;
            }
            const int64_t suffix = suffix_length(t, start + prefix, end);
            if (suffix) {
                suffixes.push_back({end - suffix, end});
                if (exception(t, start, end - suffix)) {
                    end -= suffix;
                    break;
                }
            }
            if (!prefix && !suffix) break;
            if (prefix) add(start, start + prefix);
            start += prefix;
            end -= suffix;
        }
        if (start < end) core(t, start, end);
        spans.insert(spans.end(), suffixes.rbegin(), suffixes.rend());
    }

    void core(const Code* t, int64_t start, int64_t end) {
        if (const Entry* entry = exception(t, start, end)) {
            for (int32_t length : entry->pieces) add(start, start + length), start += length;
            return;
        }
        if (all_are(LETTER, t, start, end) || is_url(t, start, end)) return add(start, end);
        int64_t word = start;
        for (int64_t place = start; place < end;) {
            const int64_t length = infix_length(t, start, place, end);
            if (length && place > start) {
                if (place > word) add(word, place);
                add(place, place + length);
                word = place + length;
            }
            place += length ? length : 1;
        }
        if (word < end) add(word, end);
    }

    // Step 4: `chosen` has, for each piece, how many pieces from it on become one exception.
    void join(const Code* t) {
        const int64_t count = spans.size();
        bool any = false;
        for (int64_t length = std::min(table.longest_pattern, count); length > 1; --length)
            for (int64_t i = 0; i + length <= count; ++i) {
                if (!pattern_at(t, i, length)) continue;
                if (!any) chosen.assign(count, 0), seen.assign(count, 0), any = true;
                if (!seen[i] && !seen[i + length - 1]) chosen[i] = length;
                std::fill_n(seen.begin() + i, length, 1);
            }
        if (!any) return;
        joined.clear();
        for (int64_t i = 0; i < count; i += std::max(chosen[i], 1)) {
            if (!chosen[i]) {
                joined.push_back(spans[i]);
                continue;
            }
            int64_t start = spans[i].start;
            for (int32_t length : exception(t, start, spans[i + chosen[i] - 1].end)->pieces)
                joined.push_back({start, start + length}), start += length;
        }
        spans.swap(joined);
    }

    bool pattern_at(const Code* t, int64_t first, int64_t length) {
        const Entry* entry = exception(t, spans[first].start, spans[first + length - 1].end);
        if (!entry || int64_t(entry->pattern.size()) != length) return false;
        for (int64_t i = 0; i < length; ++i)
            if (entry->pattern[i] != spans[first + i].end - spans[first + i].start) return false;
        return true;
    }

    // Calls visit(start, end, is white space) for every token.
    template <class Visit>
    void tokens(const Code* t, int64_t begin, int64_t size, Visit visit) {
        for (int64_t start = begin, end; start < size; start = end) {
            int all = kind(t[start]);
            const int space = all & SPACE;
            for (end = start + 1; end < size; ++end) {
                const int next = kind(t[end]);
                if ((next & SPACE) != space) break;
                all &= next;
            }
            if (space) {
                const int64_t from = start + (start > begin && t[start] == ' ');
                if (from < end) visit(from, end, true);
                continue;
            }
            if (all & LETTER && !exception(t, start, end)) {
                spans.assign(1, {start, end});  // most words: nothing to split off
            } else {
                split(t, start, end);
                if (spans.size() > 1) join(t);
            }
            for (const Span& span : spans)
                if (letters_apart)
                    letters(t, span, visit);
                else
                    visit(span.start, span.end, false);
        }
    }

    template <class Visit>
    void letters(const Code* t, Span span, Visit visit) {
        int64_t begin = span.start;
        for (int64_t place = begin + 1; place < span.end; ++place) {
            const bool mark = (kind(t[place]) & (LETTER | ALPHABETIC)) == LETTER;
            if ((kind(t[place]) | kind(t[place - 1])) & UNSPACED && !mark) {
                visit(begin, place, false);
                begin = place;
            }
        }
        visit(begin, span.end, false);
    }

    // Calls visit(where a sentence ends) for each but the last.
    template <class Visit>
    void sentences(const Code* t, int64_t begin, int64_t size, Visit visit) {
        bool closed = false;
        int64_t last = begin;
        tokens(t, begin, size, [&](int64_t start, int64_t end, bool) {
            if (end - start == 1 && kind(t[start]) & TERMINAL) {
                closed = true;
            } else if (closed && !all_are(PUNCTUATION, t, start, end)) {
                visit(last);
                closed = false;
            }
            last = end;
        });
    }
};

// Writes up to `capacity` values; goes on counting behind that, so that the caller can come again.
struct Output {
    int32_t* values;
    int64_t capacity, count = 0;
    void add(int64_t value) {
        if (count < capacity) values[count] = int32_t(value);
        ++count;
    }
};

}  // namespace

extern "C" {

// `data`: for each entry the length of its string, whether it is an exception (1) or a unit (2) or both (3),
// how many pieces and how many in its pattern; the string, the pieces, the pattern. Null if that is garbled.
void* open_rules(const uint16_t* kinds, const int32_t* data, int64_t size, int64_t letters_apart) {
    Splitter* made = new Splitter();
    made->kinds = kinds;
    made->letters_apart = letters_apart;
    for (int64_t place = 0; place < size;) {
        if (size - place < 4) return delete made, nullptr;
        const int32_t length = data[place], role = data[place + 1];
        const int32_t pieces = data[place + 2], pattern = data[place + 3];
        place += 4;
        if (length < 1 || pieces < 0 || pattern < 0 || size - place < int64_t(length) + pieces + pattern)
            return delete made, nullptr;
        const int32_t* at = data + place;
        made->table.entries.push_back({{at, at + length},
                                       bool(role & 1),
                                       bool(role & 2),
                                       {at + length, at + length + pieces},
                                       {at + length + pieces, at + length + pieces + pattern}});
        if (role & 2) made->longest_unit = std::max<int64_t>(made->longest_unit, length);
        place += int64_t(length) + pieces + pattern;
    }
    made->table.build();
    return made;
}

// The words: pairs of places. Returns how many values there are.
int64_t find_words(void* rules, const Code* codes, int64_t size, int32_t* values, int64_t capacity) {
    Output output{values, capacity};
    static_cast<Splitter*>(rules)->tokens(codes, 0, size, [&](int64_t start, int64_t end, bool space) {
        if (!space) output.add(start), output.add(end);
    });
    return output.count;
}

// Where the sentences end. Returns how many there are.
int64_t find_sentences(void* rules, const Code* codes, int64_t size, int32_t* ends, int64_t capacity) {
    Output output{ends, capacity};
    static_cast<Splitter*>(rules)->sentences(codes, 0, size, [&](int64_t end) { output.add(end); });
    output.add(size);
    return output.count;
}

// How many sentences there are in all lines, each line a text of its own.
int64_t count_sentences(void* rules, const Code* codes, int64_t size) {
    int64_t count = 0;
    for (int64_t start = 0; start <= size;) {
        const int64_t end = std::find(codes + start, codes + size, Code('\n')) - codes;
        static_cast<Splitter*>(rules)->sentences(codes, start, end, [&](int64_t) { ++count; });
        ++count;
        start = end + 1;
    }
    return count;
}
}
