#include <algorithm>
#include <vector>

#include "text/regex.h"
#include "text/unicode_delta.h"
#include "text/utf8.h"

// Oniguruma (Ruby syntax) to PCRE2. The two agree on most of the language; the differences that
// matter to tokenizers: what \s and \w hold, newer Unicode tables, `{,n}`, `{n,m}+` (a repetition
// of a repetition, not a possessive one), ^ and $ (always of lines), \u and \h.

namespace sluice {
namespace {

constexpr std::string_view kSpaces =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// U+001C..1F, U+180E and the like are not in it: that is White_Space, not PCRE2's \s.
constexpr std::string_view kNotSpaces =
    R"(\x00-\x08\x0e-\x1f\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc",
                                            "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
                                            "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",
                                            "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
constexpr std::string_view kScripts[] = {"Han", "Hiragana", "Latin", "Hangul"};

std::string code_text(uint32_t code) { return fmt::format("\\x{{{:x}}}", code); }

// Members of a category or script that PCRE2 does not know, as ranges for a character class.
std::string newer_members(std::string_view name, bool script) {
  std::string out;
  const auto add = [&](const CategoryRange& range) {
    if (script ? name == range.name : std::string_view(range.name).substr(0, name.size()) == name)
      out += code_text(range.first) + "-" + code_text(range.last);
  };
  if (script)
    for (const CategoryRange& range : kNewScripts) add(range);
  else
    for (const CategoryRange& range : kNewCategories) add(range);
  return out;
}

bool is_ascii_punct(char c) {
  return (c > ' ' && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') ||
         (c > 'z' && c < 0x7F);
}

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  absl::StatusOr<std::string> run() {
    while (ok() && at_ < in_.size()) item();
    if (ok() && !groups_.empty()) fail("a '(' is not closed");
    if (!ok()) return invalid_argument("regex '{}': {}", in_.substr(0, 200), error_);
    return out_;
  }

 private:
  static constexpr size_t kNone = std::string::npos;
  // A set that a class may hold: what to write inside [...]; empty text: not expressible there.
  struct Set {
    std::string members;
    bool negated = false;
  };

  bool ok() const { return error_.empty(); }
  void fail(std::string text) {
    if (ok()) error_ = std::move(text);
  }
  bool more() const { return at_ < in_.size(); }
  char peek() const { return more() ? in_[at_] : '\0'; }
  bool take(std::string_view text) {
    if (in_.substr(at_, text.size()) != text) return false;
    at_ += text.size();
    return true;
  }
  // Everything that a quantifier may follow comes in through here.
  void atom(std::string_view text) {
    atom_ = out_.size();
    out_ += text;
  }
  void not_an_atom(std::string_view text) {
    out_ += text;
    atom_ = kNone;
  }

  void item() {
    const char c = peek();
    if (c == '(') return open();
    if (c == ')') return close();
    if (c == '[') return character_class();
    if (c == '*' || c == '+' || c == '?' || c == '{') return quantifier();
    if (c == '\\') return escape();
    if (take("|")) return not_an_atom("|");
    if (take("^")) return not_an_atom("(?m:^)");
    if (take("$")) return not_an_atom("(?m:$)");
    if (take(".")) return atom("[^\\n]");
    atom(code_text(character()));
  }

  char32_t character() {
    const Utf8Step step = utf8_step(in_, at_);
    if (step.kind != Utf8Kind::character) fail("not valid UTF-8");
    at_ += step.length;
    return step.code;
  }

  void open() {
    const size_t start = out_.size();
    std::string_view opening;
    for (const std::string_view known :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"})
      if (opening.empty() && take(known)) opening = known;
    if (opening.empty()) {
      if (in_.substr(at_, 2) == "(?")
        return fail(fmt::format("group '{}' is not supported", in_.substr(at_, 4)));
      take("(");
      opening = "(?:";
    }
    if (groups_.size() >= 200) return fail("groups are nested too deep");
    groups_.push_back(start);
    not_an_atom(opening);
  }

  void close() {
    if (groups_.empty()) return fail("')' without '('");
    take(")");
    out_ += ")";
    atom_ = groups_.back();
    groups_.pop_back();
  }

  void quantifier() {
    if (atom_ == kNone) return fail("a quantifier has nothing to repeat");
    const bool interval = peek() == '{';
    bool exact = false;
    if (interval) {
      const size_t close = in_.find('}', at_);
      const std::string_view inside = close == kNone ? "" : in_.substr(at_ + 1, close - at_ - 1);
      const size_t comma = inside.find(',');
      exact = comma == kNone;
      const std::string low(inside.substr(0, comma));
      const std::string high(exact ? low : std::string(inside.substr(comma + 1)));
      const auto number = [](std::string_view text) {
        return text.size() <= 5 &&
               std::all_of(text.begin(), text.end(), [](char d) { return d >= '0' && d <= '9'; });
      };
      if (inside.size() < 1 || !number(low) || !number(high) || (low.empty() && high.empty()))
        return fail("'{' is not the beginning of a repetition");
      at_ = close + 1;
      out_ +=
          fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, exact ? "" : ",", exact ? "" : high);
    } else {
      out_.push_back(in_[at_++]);
    }
    if (interval && peek() == '+') {
      take("+");
      out_.insert(atom_, "(?:");
      out_ += ")+";
    } else if (peek() == '?' || peek() == '+') {
      if (exact) return fail("'{n}?' means different things in different engines");
      out_.push_back(in_[at_++]);
    }
    atom_ = kNone;
  }

  // At "\": a set (\s, \p{L}, ...), if it is one.
  bool set_escape(Set& set) {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    switch (c) {
      case 's':
      case 'S':
        set.members = kSpaces;
        break;
      case 'd':
      case 'D':
        set.members = "\\p{Nd}" + newer_members("Nd", false);
        break;
      case 'w':
      case 'W':
        set.members = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe";
        for (const char* name : {"L", "M", "Nd"}) set.members += newer_members(name, false);
        break;
      case 'h':
        set.members = "0-9a-fA-F";
        break;
      case 'p':
      case 'P':
        at_ += 2;
        property(set, c == 'P');
        return true;
      default:
        return false;
    }
    set.negated = c == 'S' || c == 'D' || c == 'W';
    at_ += 2;
    return true;
  }

  // Behind "\p" or "\P".
  void property(Set& set, bool negated) {
    const size_t close = in_.find('}', at_);
    if (!take("{") || close == kNone) return fail("\\p without {name}");
    if (take("^")) negated = !negated;
    const std::string_view name = in_.substr(at_, close - at_);
    at_ = close + 1;
    const bool script = std::count(std::begin(kScripts), std::end(kScripts), name) > 0;
    if (!script && std::count(std::begin(kCategories), std::end(kCategories), name) == 0)
      return fail(fmt::format("property '{}' is not supported", name));
    set.members = fmt::format("\\p{{{}{}}}", script ? "sc:" : "", name);
    set.members += newer_members(name, script);
    set.negated = negated;
  }

  // At "\": one character.
  char32_t character_escape() {
    take("\\");
    if (!more()) {
      fail("'\\' at the end");
      return 0;
    }
    const char c = in_[at_];
    if (is_ascii_punct(c) || c == ' ') {
      ++at_;
      return static_cast<unsigned char>(c);
    }
    ++at_;
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'a':
        return '\a';
      case 'e':
        return 0x1B;
      case 'u':
        return hexadecimal(4, 4, 0x10FFFF);
      case 'x': {
        if (!take("{")) return hexadecimal(1, 2, 0x7F);  // above, it would be a byte
        const char32_t code = hexadecimal(1, 8, 0x10FFFF);
        if (!take("}")) fail("\\x{...} is not closed");
        return code;
      }
      default:
        fail(fmt::format("escape '\\{}' is not supported", c));
        return 0;
    }
  }

  char32_t hexadecimal(int least, int most, char32_t limit) {
    char32_t code = 0;
    int digits = 0;
    for (; digits < most && more(); ++digits, ++at_) {
      const char c = in_[at_];
      const int value = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) break;
      code = code * 16 + value;
    }
    if (digits < least || code > limit || (code >= 0xD800 && code < 0xE000))
      fail("a character code is out of range");
    return code;
  }

  void escape() {
    Set set;
    if (take("\\A")) return not_an_atom("\\A");
    if (take("\\z")) return not_an_atom("\\z");
    if (set_escape(set)) return atom((set.negated ? "[^" : "[") + set.members + "]");
    atom(code_text(character_escape()));
  }

  void character_class() {
    take("[");
    std::string members;
    const bool negated = take("^");
    if (peek() == ']') return fail("an empty character class");
    while (ok() && more() && peek() != ']') class_item(members);
    if (!take("]")) fail("a '[' is not closed");
    atom((negated ? "[^" : "[") + members + "]");
  }

  void class_item(std::string& members) {
    if (peek() == '[') return fail("a class inside a class is not supported");
    if (in_.substr(at_, 2) == "&&") return fail("'&&' in a class is not supported");
    Set set;
    if (peek() == '\\' && set_escape(set)) {
      if (peek() == '-' && in_.substr(at_, 2) != "-]") return fail("a range from a set");
      if (!set.negated) {
        members += set.members;
      } else if (set.members == kSpaces) {
        members += kNotSpaces;
      } else {
        fail("a negated set inside a class is not supported");
      }
      return;
    }
    const char32_t low = class_character();
    members += code_text(low);
    if (peek() != '-' || in_.substr(at_, 2) == "-]") return;
    take("-");
    if (peek() == '[' || (peek() == '\\' && set_escape(set))) return fail("a range to a set");
    const char32_t high = class_character();
    if (high < low) return fail("a range that ends before it begins");
    members += "-" + code_text(high);
  }

  char32_t class_character() {
    if (in_.substr(at_, 2) == "\\b") {
      at_ += 2;
      return '\b';
    }
    return peek() == '\\' ? character_escape() : character();
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_, error_;
  size_t atom_ = kNone;         // where in out_ the last atom begins
  std::vector<size_t> groups_;  // where in out_ the open ones begin
};

}  // namespace

absl::StatusOr<std::string> translate_regex(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace sluice
