#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

// By a quick look at valid UTF-8: `form` leaves this text as it is. False: maybe not.
bool surely_normal(std::string_view text, NormalForm form);

// `text` in a Unicode normal form, by the reference's tables. In n log n of its length.
std::string to_normal_form(std::string_view text, NormalForm form);

}  // namespace sluice
