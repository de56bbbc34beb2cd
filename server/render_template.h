#pragma once

#include <string>

#include "base/status.h"

namespace sluice {

struct RenderTemplateOptions {
  std::string model_dir;
  std::string chat_template;  // name of one of the model's, or a file; empty: the model's
  std::string request = "-";  // file with the body of a chat request; -: stdin
  bool as_is = false;         // messages unchanged, not as the daemon would hand them on
};

// The prompt that a chat request becomes, tools included, whether the daemon takes them or not.
absl::StatusOr<std::string> render_template(const RenderTemplateOptions&);

}  // namespace sluice
