#pragma once

#include <functional>
#include <thread>

#include "server/listener.h"

namespace sluice {

// Accepts connections on a thread of its own, for a library that cannot be given a listening
// socket.
class AcceptLoop {
 public:
  // `take` owns the connection's descriptor, which does not block. It is called on the thread.
  AcceptLoop(Listener, std::function<void(int fd)> take);
  ~AcceptLoop() { stop(); }
  // Closes the listener, after accepting what the kernel has connected already if nobody else
  // could. `take` is not called any more.
  void stop();

 private:
  void run();
  bool accept_waiting();  // false: out of descriptors, mostly

  Listener listener_;
  const std::function<void(int fd)> take_;
  int stop_event_;
  std::thread thread_;
};

}  // namespace sluice
