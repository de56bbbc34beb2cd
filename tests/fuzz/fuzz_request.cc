// Bodies of the HTTP API: every parser reads each.
#include <vector>

#include "base/check.h"
#include "server/openai_api.h"
#include "text/chat_template.h"
#include "text/jinja/utf8.h"

namespace sluice {
namespace {

void check(const MaybeError& error) {
  if (!error) return;
  CHECK(!error->message.empty() && error->http_status() >= 400);
  const std::string body = error->body();
  CHECK(jinja::utf8::valid(body) && body.find('\n') == std::string::npos);
}

}  // namespace

void fuzz_one(std::string_view body) {
  static const ChatTemplate chat_template =
      ChatTemplate::compile(
          "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m | tojson }}"
          "{% endfor %}{{ documents }}{{ x }}",
          "<s>", "</s>")
          .value();
  ApiRequest completion, chat, tokenize;
  check(parse_completion(body, &completion));
  const MaybeError refused = parse_chat(body, &chat);
  check(refused);
  if (!refused) {
    const auto text = chat_template.render({.messages = chat.messages,
                                            .kwargs = chat.template_kwargs,
                                            .add_generation_prompt = chat.add_generation_prompt});
    CHECK(!text.ok() || jinja::utf8::valid(*text));
  }
  bool want_strings = false;
  check(parse_tokenize(body, &tokenize, &want_strings));
  std::string model;
  std::vector<TokenId> ids;
  check(parse_detokenize(body, &model, &ids));
}

}  // namespace sluice
