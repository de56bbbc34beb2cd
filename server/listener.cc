#include "server/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace sluice {
namespace {

constexpr int kBacklog = 4096;  // the kernel's own limit may be lower

absl::Status socket_error(int error, std::string_view blame) {
  const std::string text = fmt::format("{}: {}", blame, std::strerror(error));
  // What another process holds may be free in a moment, and an address may yet come up.
  if (error == EADDRINUSE || error == EADDRNOTAVAIL) return unavailable("{}", text);
  return invalid_argument("{}", text);
}

}  // namespace

Listener& Listener::operator=(Listener&& other) noexcept {
  if (this == &other) return *this;
  close();
  fd_ = other.release();
  port_ = other.port_;
  family_ = other.family_;
  adopted_ = other.adopted_;
  blame_ = std::move(other.blame_);
  return *this;
}

void Listener::close() {
  if (fd_ >= 0) ::close(release());
}

absl::Status Listener::read_address() {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return socket_error(errno, blame_);
  family_ = address.ss_family;
  if (family_ == AF_INET)
    port_ = ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  else if (family_ == AF_INET6)
    port_ = ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  else
    return invalid_argument("{}: not a TCP socket", blame_);
  return absl::OkStatus();
}

absl::StatusOr<Listener> Listener::bind(const std::string& host, int port, std::string_view knob) {
  addrinfo wanted{};
  wanted.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  // A name is resolved; "localhost" and "::" work like an address.
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  if (error != 0)
    return invalid_argument("server.host: cannot resolve {}: {}", host, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);

  Listener listener;
  listener.blame_ = fmt::format("{}: cannot listen on {} port {}", knob, host, port);
  listener.fd_ = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener.fd_ < 0) return socket_error(errno, listener.blame_);
  const int on = 1;
  setsockopt(listener.fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(listener.fd_, found->ai_addr, found->ai_addrlen) != 0)
    return socket_error(errno, listener.blame_);
  if (absl::Status s = listener.read_address(); !s.ok()) return s;
  return listener;
}

absl::StatusOr<Listener> Listener::adopt(int fd, std::string_view name) {
  Listener listener;
  listener.fd_ = fd;
  listener.adopted_ = true;
  listener.blame_ = fmt::format("the socket '{}' (descriptor {}) that was handed over", name, fd);
  int listening = 0;
  socklen_t size = sizeof(listening);
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0)
    return socket_error(errno, listener.blame_);
  if (listening == 0) return invalid_argument("{}: not a listening socket", listener.blame_);
  if (absl::Status s = listener.read_address(); !s.ok()) return s;
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return listener;
}

absl::Status Listener::listen() {
  if (adopted_ || ::listen(fd_, kBacklog) == 0) return absl::OkStatus();
  return socket_error(errno, blame_);
}

}  // namespace sluice
