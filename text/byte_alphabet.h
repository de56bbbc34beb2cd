#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

// The byte-level alphabet of GPT-2's vocabulary files: every byte written as one printable
// character, so that a vocabulary can be text.
namespace sluice {

// [byte] -> code point, below 0x144.
const std::array<char32_t, 256>& byte_alphabet();

// The bytes that `content` writes; false when it holds a character outside the alphabet.
bool undo_byte_alphabet(std::string_view content, std::string& bytes);

}  // namespace sluice
