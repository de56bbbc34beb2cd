#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

// Text as Python sees it: sequences of code points. Every input is valid UTF-8.
namespace sluice::jinja::utf8 {

bool valid(std::string_view);
size_t length(std::string_view);
// Byte offset of code point `index`; the size of the text when there are fewer.
size_t offset(std::string_view, size_t index);
// Decodes the character at `pos` and moves past it.
char32_t next(std::string_view, size_t& pos);
// Start of the character that ends before `pos` (> 0).
size_t previous(std::string_view, size_t pos);
void append(std::string& out, char32_t);
std::u32string decode(std::string_view);
std::string encode(std::u32string_view);

// Python's str.isspace and the like, for one character.
bool is_space(char32_t);
bool is_line_break(char32_t);  // where str.splitlines splits
bool is_alpha(char32_t);
bool is_decimal(char32_t);
bool is_digit(char32_t);
bool is_numeric(char32_t);
bool is_word(char32_t);  // \w
bool is_upper(char32_t);
bool is_lower(char32_t);
bool is_printable(char32_t);

std::string upper(std::string_view);
std::string lower(std::string_view);
std::string casefold(std::string_view);
std::string title(std::string_view);       // str.title: words are runs of letters
std::string capitalize(std::string_view);  // str.capitalize
std::string swapcase(std::string_view);

// First place of `needle` at or after `from`, in linear time whatever the texts; npos: none.
size_t find(std::string_view text, std::string_view needle, size_t from = 0);
// Last place of `needle`.
size_t rfind(std::string_view text, std::string_view needle);

std::string_view strip(std::string_view text, bool left, bool right);

}  // namespace sluice::jinja::utf8
