#include "server/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include "base/log.h"

namespace sluice {
namespace {

constexpr int kFirstSocket = 3;  // SD_LISTEN_FDS_START
constexpr int kMaxSockets = 16;

class Environment {
 public:
  explicit Environment(char** entries) : entries_(entries) {}
  std::string get(std::string_view name) const {
    for (char** entry = entries_; entry && *entry; ++entry) {
      const std::string_view text = *entry;
      if (text.size() > name.size() && text.starts_with(name) && text[name.size()] == '=')
        return std::string(text.substr(name.size() + 1));
    }
    return "";
  }

 private:
  char** entries_;
};

std::optional<int64_t> number(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 0) return std::nullopt;
  return value;
}

std::string name_at(const std::string& names, int index) {
  size_t begin = 0;
  for (; index > 0; --index) {
    begin = names.find(':', begin);
    if (begin == std::string::npos) return "";
    ++begin;
  }
  return names.substr(begin, names.find(':', begin) - begin);
}

absl::Status send_datagram(const std::string& path, std::string_view text) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const bool sane = path.size() < sizeof(address.sun_path) && (path[0] == '/' || path[0] == '@');
  if (!sane) return invalid_argument("not the path of a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';  // a name without a file
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return internal_error("{}", std::strerror(errno));
  const auto* to = reinterpret_cast<const sockaddr*>(&address);
  // A manager that reads nothing must not stop us, so nothing here waits.
  const bool sent =
      sendto(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT, to, size) >= 0;
  const int error = errno;
  close(fd);
  return sent ? absl::OkStatus() : internal_error("{}", std::strerror(error));
}

}  // namespace

absl::StatusOr<ServiceManager> ServiceManager::from(char** entries, pid_t self) {
  const Environment environment(entries);
  ServiceManager manager;
  manager.notify_path_ = environment.get("NOTIFY_SOCKET");
  // Both may be another process's, from which the environment was inherited.
  const std::string pid = std::to_string(self);
  const std::string watched = environment.get("WATCHDOG_PID");
  if (const std::string usec = environment.get("WATCHDOG_USEC");
      !usec.empty() && (watched.empty() || watched == pid)) {
    const auto value = number(usec);
    if (!value || *value == 0)
      return invalid_argument("environment variable WATCHDOG_USEC: '{}' is not a time", usec);
    manager.watchdog_interval_ = std::chrono::microseconds(*value / 2);
  }
  if (const std::string count = environment.get("LISTEN_FDS");
      !count.empty() && environment.get("LISTEN_PID") == pid) {
    if (absl::Status s = manager.take_over(count, environment.get("LISTEN_FDNAMES")); !s.ok())
      return s;
  }
  return manager;
}

absl::Status ServiceManager::take_over(const std::string& count, const std::string& names) {
  const auto sockets = number(count);
  if (!sockets || *sockets > kMaxSockets)
    return invalid_argument("environment variable LISTEN_FDS: '{}' is not a number up to {}", count,
                            kMaxSockets);
  for (int i = 0; i < *sockets; ++i) {
    const std::string name = name_at(names, i);
    if (name != "http" && name != "grpc")
      return invalid_argument(
          "environment variable LISTEN_FDNAMES: socket {} is called '{}', it must be 'http' or "
          "'grpc' (FileDescriptorName= of the socket unit)",
          i, name);
    if (sockets_.count(name) > 0)
      return invalid_argument("environment variable LISTEN_FDNAMES: two sockets are called '{}'",
                              name);
    absl::StatusOr<Listener> listener = Listener::adopt(kFirstSocket + i, name);
    if (!listener.ok()) return listener.status();
    sockets_[name] = *std::move(listener);
  }
  return absl::OkStatus();
}

Listener ServiceManager::take(const std::string& name) {
  const auto it = sockets_.find(name);
  return it == sockets_.end() ? Listener() : std::move(it->second);
}

void ServiceManager::tell(std::string_view lines) {
  if (notify_path_.empty()) return;
  const absl::Status sent = send_datagram(notify_path_, lines);
  if (sent.ok() || std::exchange(warned_, true)) return;
  log_warn("NOTIFY_SOCKET {}: {}", notify_path_, message_of(sent));
}

void ServiceManager::feed_watchdog(Instant now) {
  if (watchdog_interval_ == Nanos{0} || now - last_fed_ < watchdog_interval_) return;
  last_fed_ = now;
  tell("WATCHDOG=1");
}

}  // namespace sluice
