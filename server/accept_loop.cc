#include "server/accept_loop.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace sluice {
namespace {

constexpr int kPauseMs = 50;

}  // namespace

AcceptLoop::AcceptLoop(Listener listener, std::function<void(int fd)> take)
    : listener_(std::move(listener)),
      take_(std::move(take)),
      stop_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  CHECK(stop_event_ >= 0);
  thread_ = std::thread([this] { run(); });
}

void AcceptLoop::stop() {
  if (!thread_.joinable()) return;
  eventfd_write(stop_event_, 1);
  thread_.join();
  close(stop_event_);
}

bool AcceptLoop::accept_waiting() {
  while (true) {
    const int fd = accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      take_(fd);
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      log_warn("cannot accept a connection: {}", std::strerror(errno));
      return false;
    }
  }
}

void AcceptLoop::run() {
  pollfd wanted[] = {{stop_event_, POLLIN, 0}, {listener_.fd(), POLLIN, 0}};
  while (true) {
    poll(wanted, 2, -1);
    if (wanted[0].revents != 0) break;
    // Descriptors come back when connections end.
    if (wanted[1].revents != 0 && !accept_waiting()) poll(wanted, 1, kPauseMs);
  }
  if (!listener_.adopted()) accept_waiting();
  listener_.close();
}

}  // namespace sluice
