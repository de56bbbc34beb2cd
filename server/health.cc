#include "server/health.h"

#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace sluice {
namespace {

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::StatusOr<Socket> connect_to(const std::string& host, int port, double timeout_s) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int e = getaddrinfo(host.c_str(), fmt::format("{}", port).c_str(), &hints, &found))
    return unavailable("{}: {}", host, gai_strerror(e));
  const auto seconds = static_cast<time_t>(timeout_s);
  const timeval limit{seconds, static_cast<suseconds_t>((timeout_s - double(seconds)) * 1e6)};
  int error = 0;
  for (const addrinfo* a = found; a; a = a->ai_next) {
    Socket socket(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    // Bounds connect() and send() too.
    setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(socket.fd(), a->ai_addr, a->ai_addrlen) == 0) {
      freeaddrinfo(found);
      return socket;
    }
    error = errno;
  }
  freeaddrinfo(found);
  return unavailable("{}:{}: {}", host, port, strerror(error));
}

// The answer's beginning, at most: status line, headers, and a body of a few words.
std::string ask(const Socket& socket, const std::string& request) {
  if (send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size()))
    return "";
  std::string answer;
  char buffer[4096];
  while (answer.size() < 16 * sizeof buffer) {
    const ssize_t n = recv(socket.fd(), buffer, sizeof buffer, 0);
    if (n <= 0) break;
    answer.append(buffer, static_cast<size_t>(n));
  }
  return answer;
}

}  // namespace

absl::Status check_health(const HealthOptions& o) {
  std::string host = o.host;
  if (host == "0.0.0.0") host = "127.0.0.1";
  if (host == "::") host = "::1";
  const auto socket = connect_to(host, o.port, o.timeout_s);
  if (!socket.ok()) return socket.status();
  const std::string answer =
      ask(*socket, fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                               o.live ? "/health/live" : "/health/ready", host));
  const std::string line = answer.substr(0, answer.find('\r'));
  if (!line.starts_with("HTTP/1.1 "))
    return unavailable("{}:{}: no answer within {} s", host, o.port, o.timeout_s);
  if (line.starts_with("HTTP/1.1 200")) return absl::OkStatus();
  const size_t body = answer.find("\r\n\r\n");
  return unavailable("{}:{}: {}: {}", host, o.port, line.substr(9),
                     body == std::string::npos ? "" : answer.substr(body + 4));
}

}  // namespace sluice
