#include "text/byte_alphabet.h"

#include "text/utf8.h"

namespace sluice {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> table{};
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte)
    table[byte] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  return table;
}

constexpr auto kAlphabet = make_alphabet();
constexpr char32_t kEnd = 0x144;

constexpr std::array<int16_t, kEnd> make_inverse() {
  std::array<int16_t, kEnd> table{};
  for (auto& entry : table) entry = -1;
  for (int byte = 0; byte < 256; ++byte) table[kAlphabet[byte]] = static_cast<int16_t>(byte);
  return table;
}

constexpr auto kInverse = make_inverse();

}  // namespace

const std::array<char32_t, 256>& byte_alphabet() { return kAlphabet; }

bool undo_byte_alphabet(std::string_view content, std::string& bytes) {
  bytes.clear();
  for (size_t at = 0; at < content.size();) {
    const Utf8Step step = utf8_step(content, at);
    if (step.kind != Utf8Kind::character || step.code >= kEnd || kInverse[step.code] < 0)
      return false;
    bytes.push_back(static_cast<char>(kInverse[step.code]));
    at += step.length;
  }
  return true;
}

}  // namespace sluice
