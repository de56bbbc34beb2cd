#include "base/text.h"

#include <algorithm>

namespace sluice {

std::string bytes_text(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = double(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return fmt::format("{:.{}f} {}", value,
                     unit == 0 || value >= 100 ? 0
                     : value >= 10             ? 1
                                               : 2,
                     kUnits[unit]);
}

std::string count_text(int64_t n) {
  const std::string digits = std::to_string(n);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool group = i > 0 && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-';
    if (group) out += ',';
    out += digits[i];
  }
  return out;
}

std::string one_line(std::string_view text, size_t most) {
  size_t end = std::min(text.size(), most);
  while (end > 0 && end < text.size() && (text[end] & 0xC0) == 0x80) --end;
  std::string line(text.substr(0, end));
  for (char& c : line)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  if (end < text.size()) line += "...";
  return line;
}

absl::Status one_line(const absl::Status& status) {
  if (status.ok()) return status;
  return make_status(status.code(), "{}", one_line(message_of(status)));
}

}  // namespace sluice
