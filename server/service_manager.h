#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/types.h"
#include "server/listener.h"

namespace sluice {

// What a service manager such as systemd hands to a process by its environment, and what it wants
// to be told: sd_notify(3) and sd_listen_fds(3), whose protocol is a datagram and three variables.
// Without one nothing is handed over, and what is told goes nowhere. For the main thread.
class ServiceManager {
 public:
  ServiceManager() = default;
  // Reads NOTIFY_SOCKET, WATCHDOG_USEC and LISTEN_FDS with their companions from `environment`
  // (`environ`-style). Takes over the sockets, which must be called "http" and "grpc".
  static absl::StatusOr<ServiceManager> from(char** environment, pid_t self);

  // The socket of that name; none if it was not handed over, or was taken.
  Listener take(const std::string& name);

  // Assignments, one a line: READY=1, STATUS=... Never waits, never fails: a manager that does not
  // listen is logged once.
  void tell(std::string_view lines);
  // Feeds the watchdog when it is time to. Call it more often than watchdog_interval().
  void feed_watchdog(Instant now);
  Nanos watchdog_interval() const { return watchdog_interval_; }  // 0: there is none

 private:
  absl::Status take_over(const std::string& count, const std::string& names);

  std::map<std::string, Listener> sockets_;
  std::string notify_path_;  // empty: nobody listens
  Nanos watchdog_interval_{0};
  Instant last_fed_{};
  bool warned_ = false;
};

}  // namespace sluice
