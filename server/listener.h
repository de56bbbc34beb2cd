#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace sluice {

// A TCP socket for connections to come: bound here, or handed over by a service manager. Owns the
// file descriptor.
class Listener {
 public:
  Listener() = default;  // none
  Listener(Listener&& other) noexcept { *this = std::move(other); }
  Listener& operator=(Listener&& other) noexcept;
  ~Listener() { close(); }

  // Takes the address, and refuses connections until listen(). `knob` is whom an error blames.
  static absl::StatusOr<Listener> bind(const std::string& host, int port, std::string_view knob);
  // A socket that listens already, and goes on to do so in its other owners when this one is
  // closed. `name`: whom an error blames.
  static absl::StatusOr<Listener> adopt(int fd, std::string_view name);

  absl::Status listen();
  explicit operator bool() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  int port() const { return port_; }
  int family() const { return family_; }            // AF_INET, AF_INET6
  bool adopted() const { return adopted_; }         // others may accept from it too
  int release() { return std::exchange(fd_, -1); }  // to who closes it
  void close();

 private:
  absl::Status read_address();

  int fd_ = -1, port_ = 0, family_ = 0;
  bool adopted_ = false;
  std::string blame_;
};

}  // namespace sluice
