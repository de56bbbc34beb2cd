// What a client may send to the HTTP port: a session over a pair of sockets, in front of a daemon
// without a model. The input comes in two pieces, and then the client sends no more.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/post.hpp>

#include "base/check.h"
#include "base/log.h"
#include "server/http_session.h"
#include "tests/unit/server/world.h"

namespace sluice {
namespace {

struct Daemon {
  Daemon() {
    init_log("error", "text");
    world.hub.set_wake(0,
                       [this] { asio::post(thread.context, [this] { world.frontend->pump(0); }); });
    world.start();
  }
  World world{{.io_threads = 1}};
  HttpShared shared{world.config.server, *world.frontend};
  HttpThread thread{0};
  asio::executor_work_guard<asio::io_context::executor_type> work{thread.context.get_executor()};
};

class Client {
 public:
  explicit Client(Daemon& daemon) : daemon_(daemon) {
    int ends[2];
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    fd_ = ends[0];
    asio::ip::tcp::socket socket(daemon.thread.context);
    socket.assign(asio::ip::tcp::v4(), ends[1]);
    ++daemon.shared.num_connections;
    HttpSession::run(
        std::make_shared<HttpSession>(std::move(socket), daemon.thread, daemon.shared, false));
  }
  ~Client() { ::close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(std::string_view bytes) {
    while (!bytes.empty() && !daemon_.thread.sessions.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
      turn();
    }
  }
  void end() {
    ::shutdown(fd_, SHUT_WR);
    while (!daemon_.thread.sessions.empty()) turn();
    turn();
  }
  const std::string& received() const { return received_; }

 private:
  void turn() {
    daemon_.thread.context.run_one_for(std::chrono::milliseconds(1));
    daemon_.thread.context.poll();
    char buffer[4096];
    for (ssize_t n; (n = ::recv(fd_, buffer, sizeof(buffer), 0)) > 0;)
      received_.append(buffer, static_cast<size_t>(n));
  }
  Daemon& daemon_;
  int fd_ = -1;
  std::string received_;
};

}  // namespace

void fuzz_one(std::string_view input) {
  static Daemon* const daemon = new Daemon;  // its threads live as long as the process
  Client client(*daemon);
  const size_t cut = input.size() / 2;
  client.send(input.substr(0, cut));
  client.send(input.substr(cut));
  client.end();
  CHECK(client.received().empty() || client.received().starts_with("HTTP/1.1 "));
}

}  // namespace sluice
