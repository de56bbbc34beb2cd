#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sluice {

// What a chat template sees. The JSON texts are already valid (the edge parsed them).
struct ChatInput {
  std::string messages;  // JSON array of messages, as the client sent them
  std::string tools;   // JSON array; empty: none (None in the template, as transformers passes it)
  std::string kwargs;  // JSON object of extra variables; empty: none
  std::string name;    // of one of the model's templates; empty: tool_use for tools, else default
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the text ends where that of the last message does
};

// A model's compiled Jinja chat templates. Immutable, thread-safe.
class ChatTemplate {
 public:
  // `bos`, `eos`: the texts of those tokens, visible as bos_token and eos_token; empty: undefined.
  static absl::StatusOr<ChatTemplate> compile(std::string_view jinja, std::string bos,
                                              std::string eos);
  // From chat_template.jinja and additional_chat_templates/, or tokenizer_config.json, or
  // chat_template.json. `chosen`: the only one to use; empty: all of them, by ChatInput::name.
  // not_found when the model has none.
  static absl::StatusOr<ChatTemplate> load(const std::filesystem::path& model_dir,
                                           std::string_view chosen = {});
  // Every template of a model, and whether it compiles; not_found when the model has none.
  struct Reviewed {
    std::string name;
    absl::Status status;
  };
  static absl::StatusOr<std::vector<Reviewed>> review(const std::filesystem::path& model_dir);
  // Another template, with the same special tokens.
  absl::StatusOr<ChatTemplate> with_source(std::string_view jinja) const;
  std::vector<std::string> names() const;

  // invalid_argument with the template's own words when it raises, or runs into the bounds on time
  // and output.
  absl::StatusOr<std::string> render(const ChatInput&) const;

 private:
  struct Programs;
  std::shared_ptr<const Programs> programs_;
};

}  // namespace sluice
