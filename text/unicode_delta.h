#pragma once

#include <cstdint>

// Where the Unicode tables of the reference tokenizer differ from those of the libraries we link,
// as ranges of code points. Models were trained on the reference's splits, so these are followed,
// also where they are behind the standard. Found by classifying every code point with both; the
// golden test draws from all of these ranges.
namespace sluice {

struct CategoryRange {
  uint32_t first, last;
  const char* name;  // two-letter general category, or script
};

// Assigned in Unicode 15 and 16: known to the reference's regex engine, unassigned in PCRE2 10.42.
inline constexpr CategoryRange kNewCategories[] = {
    {0x897, 0x897, "Mn"},     {0xcf3, 0xcf3, "Mc"},     {0xece, 0xece, "Mn"},
    {0x1b4e, 0x1b4f, "Po"},   {0x1b7f, 0x1b7f, "Po"},   {0x1c89, 0x1c89, "Lu"},
    {0x1c8a, 0x1c8a, "Ll"},   {0x2427, 0x2429, "So"},   {0x2ffc, 0x2fff, "So"},
    {0x31e4, 0x31e5, "So"},   {0x31ef, 0x31ef, "So"},   {0xa7cb, 0xa7cc, "Lu"},
    {0xa7cd, 0xa7cd, "Ll"},   {0xa7da, 0xa7da, "Lu"},   {0xa7db, 0xa7db, "Ll"},
    {0xa7dc, 0xa7dc, "Lu"},   {0x105c0, 0x105f3, "Lo"}, {0x10d40, 0x10d49, "Nd"},
    {0x10d4a, 0x10d4d, "Lo"}, {0x10d4e, 0x10d4e, "Lm"}, {0x10d4f, 0x10d4f, "Lo"},
    {0x10d50, 0x10d65, "Lu"}, {0x10d69, 0x10d6d, "Mn"}, {0x10d6e, 0x10d6e, "Pd"},
    {0x10d6f, 0x10d6f, "Lm"}, {0x10d70, 0x10d85, "Ll"}, {0x10d8e, 0x10d8f, "Sm"},
    {0x10ec2, 0x10ec4, "Lo"}, {0x10efc, 0x10eff, "Mn"}, {0x1123f, 0x11240, "Lo"},
    {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"}, {0x1138b, 0x1138b, "Lo"},
    {0x1138e, 0x1138e, "Lo"}, {0x11390, 0x113b5, "Lo"}, {0x113b7, 0x113b7, "Lo"},
    {0x113b8, 0x113ba, "Mc"}, {0x113bb, 0x113c0, "Mn"}, {0x113c2, 0x113c2, "Mc"},
    {0x113c5, 0x113c5, "Mc"}, {0x113c7, 0x113ca, "Mc"}, {0x113cc, 0x113cd, "Mc"},
    {0x113ce, 0x113ce, "Mn"}, {0x113cf, 0x113cf, "Mc"}, {0x113d0, 0x113d0, "Mn"},
    {0x113d1, 0x113d1, "Lo"}, {0x113d2, 0x113d2, "Mn"}, {0x113d3, 0x113d3, "Lo"},
    {0x113d4, 0x113d5, "Po"}, {0x113d7, 0x113d8, "Po"}, {0x113e1, 0x113e2, "Mn"},
    {0x116d0, 0x116e3, "Nd"}, {0x1171e, 0x1171e, "Mc"}, {0x11b00, 0x11b09, "Po"},
    {0x11bc0, 0x11be0, "Lo"}, {0x11be1, 0x11be1, "Po"}, {0x11bf0, 0x11bf9, "Nd"},
    {0x11f00, 0x11f01, "Mn"}, {0x11f02, 0x11f02, "Lo"}, {0x11f03, 0x11f03, "Mc"},
    {0x11f04, 0x11f10, "Lo"}, {0x11f12, 0x11f33, "Lo"}, {0x11f34, 0x11f35, "Mc"},
    {0x11f36, 0x11f3a, "Mn"}, {0x11f3e, 0x11f3f, "Mc"}, {0x11f40, 0x11f40, "Mn"},
    {0x11f41, 0x11f41, "Mc"}, {0x11f42, 0x11f42, "Mn"}, {0x11f43, 0x11f4f, "Po"},
    {0x11f50, 0x11f59, "Nd"}, {0x11f5a, 0x11f5a, "Mn"}, {0x1342f, 0x1342f, "Lo"},
    {0x13439, 0x1343f, "Cf"}, {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"},
    {0x13447, 0x13455, "Mn"}, {0x13460, 0x143fa, "Lo"}, {0x16100, 0x1611d, "Lo"},
    {0x1611e, 0x16129, "Mn"}, {0x1612a, 0x1612c, "Mc"}, {0x1612d, 0x1612f, "Mn"},
    {0x16130, 0x16139, "Nd"}, {0x16d40, 0x16d42, "Lm"}, {0x16d43, 0x16d6a, "Lo"},
    {0x16d6b, 0x16d6c, "Lm"}, {0x16d6d, 0x16d6f, "Po"}, {0x16d70, 0x16d79, "Nd"},
    {0x18cff, 0x18cff, "Lo"}, {0x1b132, 0x1b132, "Lo"}, {0x1b155, 0x1b155, "Lo"},
    {0x1cc00, 0x1ccef, "So"}, {0x1ccf0, 0x1ccf9, "Nd"}, {0x1cd00, 0x1ceb3, "So"},
    {0x1d2c0, 0x1d2d3, "No"}, {0x1df25, 0x1df2a, "Ll"}, {0x1e030, 0x1e06d, "Lm"},
    {0x1e08f, 0x1e08f, "Mn"}, {0x1e4d0, 0x1e4ea, "Lo"}, {0x1e4eb, 0x1e4eb, "Lm"},
    {0x1e4ec, 0x1e4ef, "Mn"}, {0x1e4f0, 0x1e4f9, "Nd"}, {0x1e5d0, 0x1e5ed, "Lo"},
    {0x1e5ee, 0x1e5ef, "Mn"}, {0x1e5f0, 0x1e5f0, "Lo"}, {0x1e5f1, 0x1e5fa, "Nd"},
    {0x1e5ff, 0x1e5ff, "Po"}, {0x1f6dc, 0x1f6dc, "So"}, {0x1f774, 0x1f776, "So"},
    {0x1f77b, 0x1f77f, "So"}, {0x1f7d9, 0x1f7d9, "So"}, {0x1f8b2, 0x1f8bb, "So"},
    {0x1f8c0, 0x1f8c1, "So"}, {0x1fa75, 0x1fa77, "So"}, {0x1fa87, 0x1fa89, "So"},
    {0x1fa8f, 0x1fa8f, "So"}, {0x1faad, 0x1faaf, "So"}, {0x1fabb, 0x1fabf, "So"},
    {0x1fac6, 0x1fac6, "So"}, {0x1face, 0x1facf, "So"}, {0x1fada, 0x1fadc, "So"},
    {0x1fadf, 0x1fadf, "So"}, {0x1fae8, 0x1fae9, "So"}, {0x1faf7, 0x1faf8, "So"},
    {0x1fbcb, 0x1fbef, "So"}, {0x2b739, 0x2b739, "Lo"}, {0x2ebf0, 0x2ee5d, "Lo"},
    {0x31350, 0x323af, "Lo"},
};

inline constexpr CategoryRange kNewScripts[] = {
    {0x2b739, 0x2b739, "Han"},      {0x2ebf0, 0x2ee5d, "Han"}, {0x31350, 0x323af, "Han"},
    {0x1b132, 0x1b132, "Hiragana"}, {0xa7cb, 0xa7cd, "Latin"}, {0xa7da, 0xa7dc, "Latin"},
    {0x1df25, 0x1df2a, "Latin"},
};

struct CodeRange {
  uint32_t first, last;
};

// Combining marks and decompositions newer than the reference's normalisation tables: it neither
// reorders, composes nor decomposes these.
inline constexpr CodeRange kNotNormalized[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
    {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785}, {0x10787, 0x107b0},
    {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
    {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45},
    {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d},
    {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

struct LowercaseRange {
  uint32_t first, last;
  int32_t shift;  // what is added to a code point
};

// Letters whose lowercase is newer than utf8proc's tables.
inline constexpr LowercaseRange kNewLowercase[] = {
    {0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, -42343}, {0xa7cc, 0xa7cc, 1},
    {0xa7ce, 0xa7ce, 1},      {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
    {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, -42561}, {0x10d50, 0x10d65, 0x20},
    {0x16ea0, 0x16eb8, 0x1b},
};

// Marks, punctuation and numbers of the reference's own stages come from other tables than those of
// its regex engine. Members of a character class that are in \p{M}, \p{P} and are not meant:
inline constexpr const char* kNotMarks =
    R"(\x{7fd}\x{897}-\x{89f}\x{8ca}-\x{8d3}\x{9fe}\x{afa}-\x{aff}\x{b55}\x{c04}\x{c3c})"
    R"(\x{cf3}\x{d00}\x{d3b}-\x{d3c}\x{d81}\x{eba}\x{ece}\x{1715}\x{180f}\x{1abf}-\x{1ace})"
    R"(\x{1cf7}\x{1df6}-\x{1dfa}\x{a82c}\x{a8ff}\x{10d24}-\x{10d27}\x{10d69}-\x{10d6d})"
    R"(\x{10eab}-\x{10eac}\x{10efc}-\x{10eff}\x{10f46}-\x{10f50}\x{10f82}-\x{10f85})"
    R"(\x{11070}\x{11073}-\x{11074}\x{110c2}\x{11145}-\x{11146}\x{111c9}\x{111ce}-\x{111cf})"
    R"(\x{11241}\x{1133b}\x{113b8}-\x{113c0}\x{113c2}\x{113c5}\x{113c7}-\x{113ca})"
    R"(\x{113cc}-\x{113d0}\x{113d2}\x{113e1}-\x{113e2}\x{1145e}\x{1182c}-\x{1183a})"
    R"(\x{11930}-\x{11935}\x{11937}-\x{11938}\x{1193b}-\x{1193e}\x{11940})"
    R"(\x{11942}-\x{11943}\x{119d1}-\x{119d7}\x{119da}-\x{119e0}\x{119e4})"
    R"(\x{11a01}-\x{11a0a}\x{11a33}-\x{11a39}\x{11a3b}-\x{11a3e}\x{11a47})"
    R"(\x{11a51}-\x{11a5b}\x{11a8a}-\x{11a99}\x{11d31}-\x{11d36}\x{11d3a})"
    R"(\x{11d3c}-\x{11d3d}\x{11d3f}-\x{11d45}\x{11d47}\x{11d8a}-\x{11d8e})"
    R"(\x{11d90}-\x{11d91}\x{11d93}-\x{11d97}\x{11ef3}-\x{11ef6}\x{11f00}-\x{11f01})"
    R"(\x{11f03}\x{11f34}-\x{11f3a}\x{11f3e}-\x{11f42}\x{11f5a}\x{13440}\x{13447}-\x{13455})"
    R"(\x{1611e}-\x{1612f}\x{16f4f}\x{16f7f}-\x{16f87}\x{16fe4}\x{16ff0}-\x{16ff1})"
    R"(\x{1cf00}-\x{1cf2d}\x{1cf30}-\x{1cf46}\x{1e08f}\x{1e130}-\x{1e136}\x{1e2ae})"
    R"(\x{1e2ec}-\x{1e2ef}\x{1e4ec}-\x{1e4ef}\x{1e5ee}-\x{1e5ef})";
inline constexpr const char* kNotPunctuation =
    R"(\x{61d}\x{9fd}\x{a76}\x{c77}\x{c84}\x{1b4e}-\x{1b4f}\x{1b7d}-\x{1b7f})"
    R"(\x{2e43}-\x{2e4f}\x{2e52}-\x{2e5d}\x{10d6e}\x{10ead}\x{10f55}-\x{10f59})"
    R"(\x{10f86}-\x{10f89}\x{113d4}-\x{113d5}\x{113d7}-\x{113d8}\x{1144b}-\x{1144f})"
    R"(\x{1145a}-\x{1145b}\x{1145d}\x{11660}-\x{1166c}\x{116b9}\x{1183b}\x{11944}-\x{11946})"
    R"(\x{119e2}\x{11a3f}-\x{11a46}\x{11a9a}-\x{11a9c}\x{11a9e}-\x{11aa2})"
    R"(\x{11b00}-\x{11b09}\x{11be1}\x{11c41}-\x{11c45}\x{11c70}-\x{11c71})"
    R"(\x{11ef7}-\x{11ef8}\x{11f43}-\x{11f4f}\x{11fff}\x{12ff1}-\x{12ff2})"
    R"(\x{16d6d}-\x{16d6f}\x{16e97}-\x{16e9a}\x{16fe2}\x{1e5ff}\x{1e95e}-\x{1e95f})";
// And those that are meant and not in it.
inline constexpr const char* kMoreMarks = R"(\x{1cf2}-\x{1cf3})";
inline constexpr const char* kMorePunctuation = R"(\x{166d}\x{111c9})";
inline constexpr const char* kMoreNumbers = R"(\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6})";

}  // namespace sluice
