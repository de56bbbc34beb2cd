#include "text/jinja/lexer.h"

#include <algorithm>
#include <charconv>

#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

// \r\n and \r become \n; one newline at the very end is dropped.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize(source)), rest_(source_) {}

  std::vector<Token> run() {
    while (pos_ < rest_.size()) data();
    push(TokenType::end, "");
    return std::move(tokens_);
  }

 private:
  void push(TokenType type, std::string text, Value number = {}) {
    tokens_.push_back({type, line_, std::move(text), std::move(number)});
  }

  bool at(std::string_view s) const { return rest_.substr(pos_).starts_with(s); }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(rest_.begin() + pos_, rest_.begin() + to, '\n'));
    pos_ = to;
  }

  size_t skip_space(size_t from) const {
    while (from < rest_.size()) {
      size_t next = from;
      if (!utf8::is_space(utf8::next(rest_, next))) break;
      from = next;
    }
    return from;
  }

  // Past a tag's closing `close` at `from` with an optional sign, and what the sign or trim_blocks
  // eats after it; npos when it is not there.
  size_t past_close(size_t from, std::string_view close, bool trim, bool plus) const {
    const auto rest = rest_.substr(from);
    if (rest.starts_with('-') && rest.substr(1).starts_with(close))
      return skip_space(from + 1 + close.size());
    if (plus && rest.starts_with('+') && rest.substr(1).starts_with(close))
      return from + 1 + close.size();
    if (!rest.starts_with(close)) return npos;
    const size_t end = from + close.size();
    return trim && end < rest_.size() && rest_[end] == '\n' ? end + 1 : end;
  }

  // Text before a tag, with what the tag's sign and lstrip_blocks remove.
  std::string_view before_tag(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return utf8::strip(text, false, true);
    if (sign == '+' || is_variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return text;
    return utf8::strip(text.substr(line), true, true).empty() ? text.substr(0, line) : text;
  }

  void emit_data(std::string_view text) {
    if (!text.empty()) push(TokenType::data, std::string(text));
  }

  static char sign_at(std::string_view s, size_t pos) {
    return pos < s.size() && (s[pos] == '-' || s[pos] == '+') ? s[pos] : '\0';
  }

  void data() {
    size_t open = pos_;
    for (;; ++open) {
      open = rest_.find('{', open);
      if (open == npos || open + 1 >= rest_.size()) {
        emit_data(rest_.substr(pos_));
        advance(rest_.size());
        return;
      }
      const char kind = rest_[open + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
    }
    const char kind = rest_[open + 1];
    const char sign = sign_at(rest_, open + 2);
    emit_data(before_tag(rest_.substr(pos_, open - pos_), sign, kind == '{'));
    advance(open);
    const size_t inside = open + 2 + (sign != '\0');
    if (kind == '#') return comment(inside);
    if (kind == '%' && raw(inside)) return;
    push(kind == '%' ? TokenType::block_begin : TokenType::variable_begin, "");
    advance(inside);
    tag(kind == '%');
  }

  void finish_tag(size_t end) {
    advance(end);
    line_starting_ = rest_[end - 1] == '\n';
  }

  void comment(size_t from) {
    for (size_t i = rest_.find("#}", from); i != npos; i = rest_.find("#}", i + 1)) {
      // The sign, if any, stands before the end mark; it may not be the opening one.
      const size_t sign = i > from && (rest_[i - 1] == '-' || rest_[i - 1] == '+') ? i - 1 : i;
      return finish_tag(past_close(sign, "#}", true, true));
    }
    fail_at(line_, "missing end of comment tag");
  }

  bool raw(size_t inside) {
    size_t i = skip_space(inside);
    if (!rest_.substr(i).starts_with("raw")) return false;
    i = skip_space(i + 3);
    const size_t body = past_close(i, "%}", false, false);
    if (body == npos) return false;
    finish_tag(body);
    for (size_t open = rest_.find("{%", body); open != npos; open = rest_.find("{%", open + 1)) {
      const char sign = sign_at(rest_, open + 2);
      size_t j = skip_space(open + 2 + (sign != '\0'));
      if (!rest_.substr(j).starts_with("endraw")) continue;
      j = skip_space(j + 6);
      const size_t end = past_close(j, "%}", true, true);
      if (end == npos) continue;
      emit_data(before_tag(rest_.substr(body, open - body), sign, false));
      finish_tag(end);
      return true;
    }
    fail_at(line_, "missing end of raw directive");
  }

  void tag(bool is_block) {
    std::string closers;  // brackets that are open
    const std::string_view close = is_block ? "%}" : "}}";
    for (;;) {
      if (closers.empty()) {
        const size_t end = past_close(pos_, close, is_block, is_block);
        if (end != npos) {
          push(is_block ? TokenType::block_end : TokenType::variable_end, "");
          return finish_tag(end);
        }
      }
      if (pos_ >= rest_.size()) fail_at(line_, "unexpected end of template, expected '{}'", close);
      const size_t after_space = skip_space(pos_);
      if (after_space != pos_) {
        advance(after_space);
        continue;
      }
      token(closers);
    }
  }

  void token(std::string& closers) {
    const char c = rest_[pos_];
    if (c >= '0' && c <= '9') return number();
    if (c == '\'' || c == '"') return string(c);
    size_t end = pos_;
    while (end < rest_.size()) {
      size_t next = end;
      if (!utf8::is_word(utf8::next(rest_, next))) break;
      end = next;
    }
    if (end != pos_) {
      push(TokenType::name, std::string(rest_.substr(pos_, end - pos_)));
      pos_ = end;
      return;
    }
    op(closers);
  }

  void op(std::string& closers) {
    static constexpr std::string_view ops[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                               "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                               ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (std::string_view s : ops) {
      if (!at(s)) continue;
      if (s == "(") closers += ')';
      if (s == "[") closers += ']';
      if (s == "{") closers += '}';
      if (s == ")" || s == "]" || s == "}") {
        if (closers.empty()) fail_at(line_, "unexpected '{}'", s);
        if (closers.back() != s[0])
          fail_at(line_, "unexpected '{}', expected '{}'", s, closers.back());
        closers.pop_back();
      }
      push(TokenType::op, std::string(s));
      pos_ += s.size();
      return;
    }
    size_t next = pos_;
    utf8::next(rest_, next);
    fail_at(line_, "unexpected character '{}'", rest_.substr(pos_, next - pos_));
  }

  // Digits with single underscores between them.
  size_t digits(size_t from, bool hex = false) const {
    const auto is_digit = [&](size_t i) {
      if (i >= rest_.size()) return false;
      const char c = rest_[i];
      return (c >= '0' && c <= '9') || (hex && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')));
    };
    size_t i = from;
    while (is_digit(i) || (i > from && i < rest_.size() && rest_[i] == '_' && is_digit(i + 1))) ++i;
    return i;
  }

  static std::string without_underscores(std::string_view s) {
    std::string out(s);
    std::erase(out, '_');
    return out;
  }

  void number() {
    const bool after_dot = pos_ > 0 && rest_[pos_ - 1] == '.';
    const size_t whole = digits(pos_);
    size_t end = whole;
    if (!after_dot) {
      if (end < rest_.size() && rest_[end] == '.' && digits(end + 1) > end + 1)
        end = digits(end + 1);
      if (end < rest_.size() && (rest_[end] == 'e' || rest_[end] == 'E')) {
        const size_t sign =
            end + 1 < rest_.size() && (rest_[end + 1] == '+' || rest_[end + 1] == '-');
        if (digits(end + 1 + sign) > end + 1 + sign) end = digits(end + 1 + sign);
      }
    }
    if (end != whole) {
      const std::string text = without_underscores(rest_.substr(pos_, end - pos_));
      push(TokenType::real, text, Value(strtod(text.c_str(), nullptr)));
      pos_ = end;
      return;
    }
    int base = 10;
    size_t start = pos_;
    if (rest_[pos_] == '0' && pos_ + 1 < rest_.size()) {
      const char c = static_cast<char>(rest_[pos_ + 1] | 0x20);
      base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
      if (base != 10) end = digits(start = pos_ + 2, base == 16);
    }
    const std::string text = without_underscores(rest_.substr(start, end - start));
    int64_t n = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), n, base);
    if (result.ec == std::errc::result_out_of_range && base == 10 && text[0] != '0') {
      push(TokenType::integer, text, make_big_int(text));
      pos_ = end;
      return;
    }
    if (result.ec == std::errc::result_out_of_range)
      fail_at(line_, "integer {} does not fit in 64 bits", text);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size() ||
        (base == 10 && text.size() > 1 && text[0] == '0' && n != 0))
      fail_at(line_, "malformed number '{}'", rest_.substr(pos_, end - pos_));
    push(TokenType::integer, text, Value(n));
    pos_ = end;
  }

  void string(char quote) {
    size_t end = pos_ + 1;
    while (end < rest_.size() && rest_[end] != quote) end += rest_[end] == '\\' ? 2 : 1;
    if (end >= rest_.size()) fail_at(line_, "unterminated string");
    push(TokenType::string, unescape(rest_.substr(pos_ + 1, end - pos_ - 1)));
    advance(end + 1);
  }

  std::string unescape(std::string_view s) const {
    std::string out;
    out.reserve(s.size());
    for (size_t i = 0; i < s.size();) {
      if (s[i] != '\\' || i + 1 >= s.size()) {
        out += s[i++];
        continue;
      }
      i = escape(out, s, i + 1);
    }
    return out;
  }

  // One escape whose letter is at `i`; gives the place after it. Unknown ones stay as they are.
  size_t escape(std::string& out, std::string_view s, size_t i) const {
    static constexpr std::string_view letters = "abfnrtv\\'\"";
    static constexpr std::string_view meant = "\a\b\f\n\r\t\v\\'\"";
    const char c = s[i];
    if (const size_t k = letters.find(c); k != npos) {
      out += meant[k];
      return i + 1;
    }
    if (c == '\n') return i + 1;
    if (c >= '0' && c <= '7') {
      char32_t code = 0;
      size_t end = i;
      while (end < s.size() && end < i + 3 && s[end] >= '0' && s[end] <= '7')
        code = code * 8 + static_cast<char32_t>(s[end++] - '0');
      utf8::append(out, code);
      return end;
    }
    if (c == 'N') fail_at(line_, "\\N{{...}} escapes are not supported");
    const size_t num_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (num_digits == 0) {
      out += '\\';
      return i;
    }
    const std::string_view hex = s.substr(i + 1, num_digits);
    uint32_t code = 0;
    const auto result = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() != num_digits || result.ptr != hex.data() + hex.size())
      fail_at(line_, "truncated \\{} escape in a string", c);
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail_at(line_, "\\{}{} is no character", c, hex);
    utf8::append(out, code);
    return i + 1 + num_digits;
  }

  static constexpr size_t npos = std::string_view::npos;
  const std::string source_;
  const std::string_view rest_;  // all of source_
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (!utf8::valid(source)) fail("the template is not valid UTF-8");
  return Lexer(source).run();
}

std::string describe(const Token& token) {
  switch (token.type) {
    case TokenType::end:
      return "end of template";
    case TokenType::block_begin:
      return "'{%'";
    case TokenType::block_end:
      return "'%}'";
    case TokenType::variable_begin:
      return "'{{'";
    case TokenType::variable_end:
      return "'}}'";
    case TokenType::data:
      return "text";
    case TokenType::string:
      return "a string";
    default:
      return "'" + token.text + "'";
  }
}

}  // namespace sluice::jinja
