#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

// Words for people.
namespace sluice {

// "1.25 GiB", "640 KiB"
std::string bytes_text(int64_t bytes);
// "131,072"
std::string count_text(int64_t n);

// Text from a file or a client as part of a line: control characters become question marks, and
// what is longer than `most` bytes is cut between characters.
std::string one_line(std::string_view text, size_t most = 1000);
// The same error with such a message.
absl::Status one_line(const absl::Status&);

}  // namespace sluice
