#include "text/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/unicode_delta.h"
#include "text/utf8.h"

namespace sluice {
namespace {

struct Mark {
  utf8proc_int32_t code;
  int combining_class;
};

bool compatible(NormalForm form) { return form == NormalForm::nfkc || form == NormalForm::nfkd; }
bool composed(NormalForm form) { return form == NormalForm::nfc || form == NormalForm::nfkc; }

bool not_normalized(char32_t code) {
  const auto* range = std::lower_bound(std::begin(kNotNormalized), std::end(kNotNormalized), code,
                                       [](const CodeRange& r, char32_t c) { return r.last < c; });
  return range != std::end(kNotNormalized) && range->first <= code;
}

// Puts marks into canonical order. Not utf8proc's: that is quadratic in a run of marks, which is
// what a hostile text is made of.
class Decomposer {
 public:
  explicit Decomposer(NormalForm form) : form_(form) {}

  void put(char32_t code) {
    if (not_normalized(code)) {
      // Behaves as a base character that goes with nothing.
      finish_segment();
      append_utf8(out_, code);
      return;
    }
    utf8proc_int32_t parts[32];
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                        (compatible(form_) ? UTF8PROC_COMPAT : 0));
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts, 32, options, nullptr);
    CHECK(count >= 0 && count <= 32);  // 18 is the longest there is
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      const int combining = utf8proc_get_property(parts[i])->combining_class;
      if (combining == 0) flush_marks();
      if (combining == 0)
        segment_.push_back(parts[i]);
      else
        marks_.push_back({parts[i], combining});
    }
  }

  std::string finish() {
    finish_segment();
    return std::move(out_);
  }

 private:
  void flush_marks() {
    std::stable_sort(marks_.begin(), marks_.end(), [](const Mark& a, const Mark& b) {
      return a.combining_class < b.combining_class;
    });
    for (const Mark& mark : marks_) segment_.push_back(mark.code);
    marks_.clear();
  }
  void finish_segment() {
    flush_marks();
    auto length = static_cast<utf8proc_ssize_t>(segment_.size());
    if (composed(form_) && length > 0)
      length = utf8proc_normalize_utf32(
          segment_.data(), length,
          static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    CHECK(length >= 0);
    for (utf8proc_ssize_t i = 0; i < length; ++i)
      append_utf8(out_, static_cast<char32_t>(segment_[i]));
    segment_.clear();
  }

  NormalForm form_;
  std::vector<utf8proc_int32_t> segment_;
  std::vector<Mark> marks_;
  std::string out_;
};

}  // namespace

// By the lead bytes alone: nothing below U+0300, U+00C0 or U+0080 changes in that form.
bool surely_normal(std::string_view text, NormalForm form) {
  const uint8_t limit = form == NormalForm::nfc ? 0xCC : form == NormalForm::nfd ? 0xC3 : 0x80;
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return static_cast<uint8_t>(c) < limit; });
}

std::string to_normal_form(std::string_view text, NormalForm form) {
  Decomposer decomposer(form);
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    decomposer.put(step.code);
    at += step.length;
  }
  return decomposer.finish();
}

}  // namespace sluice
