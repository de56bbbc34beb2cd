#pragma once

#include <optional>
#include <string>

#include "base/status.h"

namespace sluice {

// `sluice chat`: one question to a running daemon, over gRPC.
struct ChatOptions {
  std::string address = "127.0.0.1:8001";
  std::string text, system;
  std::optional<int> max_tokens;
  std::optional<double> temperature;
  std::optional<int64_t> seed;
  double timeout_s = 600;
};

// Prints the answer to stdout as it comes.
absl::Status chat(const ChatOptions& options);

}  // namespace sluice
