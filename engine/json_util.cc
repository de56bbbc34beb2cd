#include "engine/json_util.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <vector>

namespace sluice {
namespace {

constexpr int kMaxDepth = 32;

// Looks at brackets outside strings only; the parser judges the rest.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<std::string> read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const std::string name = path.filename().string();
  // Non-blocking, so that a FIFO with that name cannot hang the start.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT) return not_found("{}: no such file", path.string());
    return invalid_argument("{}: {}", path.string(), std::strerror(errno));
  }
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return invalid_argument("{}: not a regular file", name);
  }
  if (static_cast<size_t>(info.st_size) > max_bytes) {
    ::close(fd);
    return invalid_argument("{}: {} bytes, at most {} are read", name, info.st_size, max_bytes);
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  ::close(fd);
  if (done != text.size()) return invalid_argument("{}: cannot be read", name);
  return text;
}

absl::StatusOr<Json> parse_json_object(std::string_view text, std::string_view what) {
  if (too_deep(text)) return invalid_argument("{}: nested deeper than {}", what, kMaxDepth);
  std::vector<std::set<std::string>> keys;  // of the objects open
  std::string repeated;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && repeated.empty() &&
        !keys.back().insert(value.get_ref<const std::string&>()).second) {
      repeated = value.get<std::string>();
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (!repeated.empty())
      return invalid_argument("{}: key \"{}\" occurs twice", what, short_name(repeated));
    if (!json.is_object())
      return invalid_argument("{}: expected an object, found {}", what, describe(json));
    return json;
  } catch (const Json::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." without its tag.
    std::string_view message = e.what();
    if (const size_t end = message.find("] "); end != std::string_view::npos)
      message.remove_prefix(end + 2);
    std::string line(message.substr(0, 200));
    for (char& c : line)
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
    return invalid_argument("{}: not JSON: {}", what, line);
  }
}

std::string short_name(std::string_view name) { return one_line(name, 100); }

std::string describe(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

}  // namespace sluice
