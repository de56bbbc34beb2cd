#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/log.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr size_t kMaxPattern = 1 << 16;
constexpr size_t kJitStackStart = 32 << 10, kJitStackMax = 8 << 20;
constexpr uint32_t kHeapLimitKib = 1 << 18;

std::string error_text(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Regex::Code {
  std::string pattern;
  pcre2_code* compiled = nullptr;
  bool jit = false;
  ~Code() { pcre2_code_free(compiled); }
};

struct Regex::Scratch::Buffers {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
  Buffers() {
    pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_heap_limit(context, kHeapLimitKib);
  }
  ~Buffers() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Regex::Scratch::Scratch() : buffers_(std::make_unique<Buffers>()) {}
Regex::Scratch::~Scratch() = default;

absl::StatusOr<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kMaxPattern)
    return invalid_argument("regex of {} bytes, the limit is {}", pattern.size(), kMaxPattern);
  absl::StatusOr<std::string> translated = translate_regex(pattern);
  if (!translated.ok()) return translated.status();
  auto code = std::make_shared<Code>();
  code->pattern = pattern;
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!code->compiled) return invalid_argument("regex '{}': {}", pattern, error_text(error));
  // Where the system forbids it there is the interpreter, slower and the same.
  code->jit = pcre2_jit_compile(code->compiled, PCRE2_JIT_COMPLETE) == 0;
  Regex regex;
  regex.code_ = std::move(code);
  return regex;
}

std::optional<Regex::Span> Regex::search(std::string_view text, size_t from,
                                         Scratch& scratch) const {
  Scratch::Buffers& buffers = *scratch.buffers_;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int result = PCRE2_ERROR_JIT_STACKLIMIT;
  if (code_->jit)
    result = pcre2_jit_match(code_->compiled, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                             buffers.match, buffers.context);
  // The interpreter keeps its stack on the heap, so it goes further than compiled code.
  if (result == PCRE2_ERROR_JIT_STACKLIMIT)
    result = pcre2_match(code_->compiled, subject, text.size(), from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, buffers.match, buffers.context);
  if (result >= 0) {
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(buffers.match);
    return Span{ends[0], ends[1]};
  }
  if (result != PCRE2_ERROR_NOMATCH)
    log_error("tokenizer: regex '{}' gave up on a text of {} bytes: {}; the rest is not split",
              code_->pattern, text.size(), error_text(result));
  return std::nullopt;
}

std::optional<Regex::Span> Regex::Matches::next() {
  while (from_ <= text_.size()) {
    const std::optional<Span> match = regex_.search(text_, from_, scratch_);
    if (!match) {
      from_ = text_.size() + 1;
      return std::nullopt;
    }
    // An empty match right behind the last match is not one: look on from the next character.
    if (match->begin == match->end && match->end == last_end_) {
      from_ += from_ < text_.size() ? utf8_step(text_, from_).length : 1;
      continue;
    }
    from_ = last_end_ = match->end;
    return match;
  }
  return std::nullopt;
}

}  // namespace sluice
