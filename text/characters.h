#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// Classes of characters as the reference tokenizer has them.
namespace sluice {

bool is_white_space(char32_t code);

// Patterns for Regex, each of one character: \w of the reference's own matching (not of its regex
// stages), what StripAccents takes away, what Punctuation splits at, what Digits does.
std::string word_pattern();
std::string mark_pattern();
std::string punctuation_pattern();
std::string number_pattern();

// The lowercase of one character, without regard to its neighbours; sometimes two characters.
void append_lowercase(std::string& out, char32_t code);

// `text` is valid UTF-8. Where the white space that begins at `at` ends.
size_t skip_white_space(std::string_view text, size_t at);
// Where the white space that ends at `end` begins, not before `floor`.
size_t back_over_white_space(std::string_view text, size_t end, size_t floor);
// Beginning of the character that ends at `end`, which is not 0.
size_t previous_character(std::string_view text, size_t end);

}  // namespace sluice
