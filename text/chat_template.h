#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sluice {

// What a chat template sees. The JSON texts are already valid (the edge parsed them).
struct ChatInput {
  std::string messages;  // JSON array of messages, as the client sent them
  std::string tools;   // JSON array; empty: none (None in the template, as transformers passes it)
  std::string kwargs;  // JSON object of extra variables; empty: none
  bool add_generation_prompt = true;
};

// A compiled Jinja chat template. Immutable, thread-safe.
class ChatTemplate {
 public:
  // `bos`, `eos`: the texts of those tokens, visible as bos_token and eos_token; empty: undefined.
  static absl::StatusOr<ChatTemplate> compile(std::string_view jinja, std::string bos,
                                              std::string eos);
  // From tokenizer_config.json's chat_template or chat_template.jinja. not_found when the model has
  // none.
  static absl::StatusOr<ChatTemplate> load(const std::filesystem::path& model_dir);

  // invalid_argument with the template's own words when it raises, or runs into the bounds on time
  // and output.
  absl::StatusOr<std::string> render(const ChatInput&) const;

 private:
  struct Program;
  std::shared_ptr<const Program> program_;
};

}  // namespace sluice
