#include "server/chunk_writers.h"

#include <utility>
#include <vector>

#include "server/json_text.h"
#include "server/logprobs.h"

namespace sluice {
namespace {

void append_usage(std::string& out, const Usage& usage) {
  out += R"({"prompt_tokens":)";
  append_int(out, usage.prompt);
  out += R"(,"completion_tokens":)";
  append_int(out, usage.completion);
  out += R"(,"total_tokens":)";
  append_int(out, usage.prompt + usage.completion);
  out += R"(,"prompt_tokens_details":{"cached_tokens":)";
  append_int(out, usage.cached);
  out += R"(},"completion_tokens_details":{"reasoning_tokens":0}})";
}

void add_timing(std::string& out, const Timing* timing) {
  if (timing == nullptr) return;
  out += R"(,"timing":)";
  append_timing(out, *timing);
}

// ,"finish_reason":"stop","stop_reason":...
void append_finish(std::string& out, FinishReason finish, std::string_view stop_text,
                   TokenId stop_token) {
  if (finish == FinishReason::none) {
    out += R"(,"finish_reason":null)";
    return;
  }
  out += finish == FinishReason::stop ? R"(,"finish_reason":"stop","stop_reason":)"
                                      : R"(,"finish_reason":"length","stop_reason":)";
  if (!stop_text.empty()) {
    append_json_string(out, stop_text);
  } else if (stop_token >= 0) {
    append_int(out, stop_token);
  } else {
    out += "null";
  }
}

void append_token_ids(std::string& out, std::span<const TokenOut> tokens) {
  out += R"(,"token_ids":[)";
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, tokens[i].id);
  }
  out += ']';
}

// {"id":...,"object":...,"created":...,"model":...
std::string head_of(const ReplyFormat& format, std::string_view object) {
  std::string out = R"({"id":)";
  append_json_string(out, format.id);
  out += R"(,"object":)";
  append_json_string(out, object);
  out += R"(,"created":)";
  append_int(out, format.created);
  out += R"(,"model":)";
  append_json_lossy(out, format.model);
  return out;
}

void append_logprobs(std::string& out, const ReplyFormat& format,
                     std::span<const TokenOut> tokens) {
  if (!format.logprobs) {
    out += "null";
  } else if (format.kind == ApiKind::chat) {
    append_chat_logprobs(out, tokens, *format.tokenizer, format.tokens_as_ids);
  } else {
    append_completion_logprobs(out, tokens, *format.tokenizer, format.tokens_as_ids);
  }
}

class SseWriter final : public ChunkWriter {
 public:
  SseWriter(ReplyFormat format, std::shared_ptr<HttpReply> reply)
      : format_(std::move(format)),
        reply_(std::move(reply)),
        head_("data: " + head_of(format_, format_.kind == ApiKind::chat ? "chat.completion.chunk"
                                                                        : "text_completion")),
        begun_(format_.num_choices, false) {
    head_ += R"(,"choices":[)";
    reply_->streaming = true;
  }

  void prompt(int index, const PromptOut& prompt) override {
    if (!format_.token_ids) return;
    prompt_ids_.resize(format_.num_choices / format_.choices_per_prompt);
    append_ids(prompt_ids_[index], prompt.ids);
  }

  void write(const Delta& delta) override {
    if (format_.kind == ApiKind::chat) {
      write_chat(delta);
    } else {
      write_completion(delta);
    }
  }

  void end(const Usage& usage, const Timing* timing) override {
    std::string& out = reply_->bytes;
    if (format_.include_usage || timing != nullptr) {
      out += head_;
      out += ']';
      if (format_.include_usage) {
        out += R"(,"usage":)";
        append_usage(out, usage);
      }
      add_timing(out, timing);
      out += "}\n\n";
    }
    out += "data: [DONE]\n\n";
    reply_->ended = true;
  }

  void fail(const ApiError& error) override {
    reply_->ended = true;
    if (!sent_) {
      reply_->error = error;
      return;
    }
    reply_->bytes += "data: ";
    reply_->bytes += error.body();
    reply_->bytes += "\n\n";
  }

  bool flush() override { return reply_->wake ? reply_->wake() : true; }

 private:
  void write_chat(const Delta& delta) {
    const bool first = !begun_[delta.choice];
    if (first) {
      std::string& out = open(delta);
      out += R"(,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null)";
      close(out, delta);
    }
    const bool finished = delta.finish != FinishReason::none;
    if (!delta.text.empty()) {
      std::string& out = open(delta);
      out += R"(,"delta":{"content":)";
      append_json_string(out, delta.text);
      out += R"(},"logprobs":)";
      append_logprobs(out, format_, delta.tokens);
      out += R"(,"finish_reason":null)";
      if (format_.token_ids) append_token_ids(out, delta.tokens);
      close(out, delta);
    }
    if (!finished) return;
    // The last tokens had no text of their own: they go with the last chunk.
    const auto tokens = delta.text.empty() ? delta.tokens : std::span<const TokenOut>{};
    std::string& out = open(delta);
    out += R"(,"delta":{},"logprobs":)";
    if (tokens.empty()) {
      out += "null";
    } else {
      append_logprobs(out, format_, tokens);
    }
    append_finish(out, delta.finish, delta.stop_text, delta.stop_token);
    if (format_.token_ids) append_token_ids(out, tokens);
    close(out, delta);
  }

  void write_completion(const Delta& delta) {
    if (delta.text.empty() && delta.tokens.empty() && delta.finish == FinishReason::none) return;
    std::string& out = open(delta);
    out += R"(,"text":)";
    append_json_string(out, delta.text);
    out += R"(,"logprobs":)";
    append_logprobs(out, format_, delta.tokens);
    append_finish(out, delta.finish, delta.stop_text, delta.stop_token);
    if (format_.token_ids) append_token_ids(out, delta.tokens);
    close(out, delta);
  }

  std::string& open(const Delta& delta) {
    std::string& out = reply_->bytes;
    out += head_;
    out += R"({"index":)";
    append_int(out, delta.choice);
    return out;
  }

  void close(std::string& out, const Delta& delta) {
    sent_ = true;
    if (!begun_[delta.choice]) {
      begun_[delta.choice] = true;
      if (!prompt_ids_.empty()) {
        out += R"(,"prompt_token_ids":)";
        out += prompt_ids_[delta.choice / format_.choices_per_prompt];
      }
    }
    out += "}]";
    if (format_.continuous_usage) {
      out += R"(,"usage":)";
      append_usage(out, delta.usage);
    } else if (format_.include_usage) {
      out += R"(,"usage":null)";
    }
    out += "}\n\n";
  }

  const ReplyFormat format_;
  const std::shared_ptr<HttpReply> reply_;
  std::string head_;         // of every event, up to the first choice
  std::vector<bool> begun_;  // by choice: its first chunk is written
  std::vector<std::string> prompt_ids_;
  bool sent_ = false;
};

class JsonWriter final : public ChunkWriter {
 public:
  JsonWriter(ReplyFormat format, std::shared_ptr<HttpReply> reply)
      : format_(std::move(format)),
        reply_(std::move(reply)),
        choices_(format_.num_choices),
        prompts_(format_.num_choices / format_.choices_per_prompt) {}

  void prompt(int index, const PromptOut& prompt) override {
    if (format_.token_ids) append_ids(prompts_[index].ids, prompt.ids);
    if (format_.prompt_logprobs)
      append_prompt_logprobs(prompts_[index].logprobs, prompt, *format_.tokenizer);
  }

  void write(const Delta& delta) override {
    Choice& choice = choices_[delta.choice];
    choice.text += delta.text;
    choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    choice.finish = delta.finish;
    choice.stop_text = delta.stop_text;
    choice.stop_token = delta.stop_token;
  }

  void end(const Usage& usage, const Timing* timing) override {
    const bool chat = format_.kind == ApiKind::chat;
    std::string& out = reply_->bytes;
    out = head_of(format_, chat ? "chat.completion" : "text_completion");
    out += R"(,"choices":[)";
    for (int i = 0; i < format_.num_choices; ++i) {
      if (i > 0) out += ',';
      append_choice(out, i);
    }
    out += R"(],"usage":)";
    append_usage(out, usage);
    if (chat) append_prompt(out, 0);
    out += R"(,"system_fingerprint":null)";
    if (chat) out += R"(,"service_tier":null)";
    add_timing(out, timing);
    out += '}';
    reply_->ended = true;
  }

  void fail(const ApiError& error) override {
    reply_->error = error;
    reply_->ended = true;
  }

  bool flush() override { return reply_->ended && reply_->wake ? reply_->wake() : true; }

 private:
  struct Choice {
    std::string text, stop_text;
    std::vector<TokenOut> tokens;
    FinishReason finish = FinishReason::none;
    TokenId stop_token = -1;
  };
  struct Prompt {
    std::string ids, logprobs;
  };

  void append_choice(std::string& out, int index) {
    const Choice& choice = choices_[index];
    const bool chat = format_.kind == ApiKind::chat;
    out += R"({"index":)";
    append_int(out, index);
    out += chat ? R"(,"message":{"role":"assistant","content":)" : R"(,"text":)";
    append_json_string(out, choice.text);
    if (chat) out += R"(,"refusal":null})";
    out += R"(,"logprobs":)";
    append_logprobs(out, format_, choice.tokens);
    append_finish(out, choice.finish, choice.stop_text, choice.stop_token);
    if (format_.token_ids) append_token_ids(out, choice.tokens);
    if (!chat) append_prompt(out, index / format_.choices_per_prompt);
    out += '}';
  }

  void append_prompt(std::string& out, int prompt) {
    if (format_.prompt_logprobs) {
      out += R"(,"prompt_logprobs":)";
      const std::string& text = prompts_[prompt].logprobs;
      out += text.empty() ? "[null]" : text;
    }
    if (format_.token_ids) {
      out += R"(,"prompt_token_ids":)";
      out += prompts_[prompt].ids;
    }
  }

  const ReplyFormat format_;
  const std::shared_ptr<HttpReply> reply_;
  std::vector<Choice> choices_;
  std::vector<Prompt> prompts_;
};

}  // namespace

std::unique_ptr<ChunkWriter> make_sse_writer(ReplyFormat format, std::shared_ptr<HttpReply> reply) {
  return std::make_unique<SseWriter>(std::move(format), std::move(reply));
}

std::unique_ptr<ChunkWriter> make_json_writer(ReplyFormat format,
                                              std::shared_ptr<HttpReply> reply) {
  return std::make_unique<JsonWriter>(std::move(format), std::move(reply));
}

}  // namespace sluice
