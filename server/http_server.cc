#include "server/http_server.h"

#include <boost/asio/post.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "server/http_session.h"

namespace sluice {
namespace {

using asio::ip::tcp;

constexpr auto kSweepInterval = std::chrono::milliseconds(100);
constexpr auto kStopGrace = std::chrono::seconds(5);
constexpr int kMaxRefusals = 64;  // connections beyond the limit that are told so
constexpr auto kAcceptPause = std::chrono::milliseconds(50);

Instant now() { return std::chrono::steady_clock::now(); }

}  // namespace

struct HttpServer::Impl {
  Impl(const Config::Server& config, Frontend& frontend) : shared(config, frontend) {
    for (int i = 0; i < config.io_threads; ++i) threads.push_back(std::make_unique<HttpThread>(i));
  }

  absl::Status listen(Listener listener);
  void stop_accepting();  // the first thread
  void post_stop_accepting() {
    asio::post(threads.front()->context, [this] { stop_accepting(); });
  }
  void accept();
  void take(tcp::socket socket, HttpThread& thread);
  void sweep(HttpThread& thread);
  template <class Each>
  void for_each_session(Each each);
  bool wait_for_sessions(Nanos limit);

  HttpShared shared;
  std::vector<std::unique_ptr<HttpThread>> threads;
  std::unique_ptr<tcp::acceptor> acceptor;
  std::unique_ptr<asio::steady_timer> accept_pause;
  std::vector<std::thread> running;
  size_t next_thread = 0;
  int port = 0;
  bool adopted = false;  // the listener has other owners
};

absl::Status HttpServer::Impl::listen(Listener listener) {
  if (absl::Status s = listener.listen(); !s.ok()) return s;
  asio::io_context& context = threads.front()->context;
  const tcp protocol = listener.family() == AF_INET6 ? tcp::v6() : tcp::v4();
  port = listener.port();
  adopted = listener.adopted();
  acceptor = std::make_unique<tcp::acceptor>(context);
  boost::system::error_code ec;
  acceptor->assign(protocol, listener.fd(), ec);
  if (ec) return internal_error("cannot accept connections: {}", ec.message());
  listener.release();  // the acceptor's now
  accept_pause = std::make_unique<asio::steady_timer>(context);
  return absl::OkStatus();
}

// Those whose connections the kernel has already made are ours to answer, unless another process
// accepts from the same socket.
void HttpServer::Impl::stop_accepting() {
  if (!acceptor->is_open()) return;
  boost::system::error_code ec;
  acceptor->non_blocking(true, ec);
  while (!adopted && !ec) {
    HttpThread& thread = *threads[next_thread++ % threads.size()];
    tcp::socket socket(thread.context);
    acceptor->accept(socket, ec);
    if (!ec) take(std::move(socket), thread);
  }
  acceptor->close(ec);
  accept_pause->cancel();
}

void HttpServer::Impl::accept() {
  HttpThread& thread = *threads[next_thread++ % threads.size()];
  acceptor->async_accept(thread.context,
                         [this, &thread](boost::system::error_code ec, tcp::socket socket) {
                           if (ec == asio::error::operation_aborted || !acceptor->is_open()) return;
                           if (ec) {
                             // Out of file descriptors, mostly: they come back when connections
                             // end.
                             log_warn("cannot accept a connection: {}", ec.message());
                             accept_pause->expires_after(kAcceptPause);
                             accept_pause->async_wait([this](boost::system::error_code aborted) {
                               if (!aborted && acceptor->is_open()) accept();
                             });
                             return;
                           }
                           take(std::move(socket), thread);
                           accept();
                         });
}

void HttpServer::Impl::take(tcp::socket socket, HttpThread& thread) {
  const int others = shared.num_connections.fetch_add(1);
  const int limit = shared.frontend.limits().max_connections;
  if (others >= limit + kMaxRefusals) {  // not even time to say no
    shared.num_connections.fetch_sub(1);
    return;
  }
  // From here on the connection belongs to its own thread.
  asio::post(thread.context, [this, &thread, over = others >= limit,
                              socket = std::move(socket)]() mutable {
    HttpSession::run(std::make_shared<HttpSession>(std::move(socket), thread, shared, over));
  });
}

void HttpServer::Impl::sweep(HttpThread& thread) {
  thread.sweep.expires_after(kSweepInterval);
  thread.sweep.async_wait([this, &thread](boost::system::error_code ec) {
    if (ec) return;
    const Instant at = now();
    for (HttpSession* session : thread.sessions) session->check_deadlines(at);
    sweep(thread);
  });
}

template <class Each>
void HttpServer::Impl::for_each_session(Each each) {
  for (const auto& thread : threads) {
    asio::post(thread->context, [t = thread.get(), each] {
      for (HttpSession* session : t->sessions) each(*session);
    });
  }
}

bool HttpServer::Impl::wait_for_sessions(Nanos limit) {
  const Instant until = now() + limit;
  while (shared.num_connections > 0 && now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return shared.num_connections == 0;
}

HttpServer::HttpServer(const Config::Server& config, Frontend& frontend)
    : impl_(std::make_unique<Impl>(config, frontend)) {}

HttpServer::~HttpServer() { stop(); }

absl::Status HttpServer::start(Listener listener) {
  if (const absl::Status status = impl_->listen(std::move(listener)); !status.ok()) return status;
  Impl& impl = *impl_;
  for (const auto& thread : impl.threads) {
    HttpThread* t = thread.get();
    impl.shared.frontend.hub().set_wake(t->shard, [t, &frontend = impl.shared.frontend] {
      asio::post(t->context, [t, &frontend] { frontend.pump(t->shard); });
    });
    impl.sweep(*t);
  }
  impl.accept();
  for (const auto& thread : impl.threads)
    impl.running.emplace_back([t = thread.get()] { t->context.run(); });
  return absl::OkStatus();
}

int HttpServer::port() const { return impl_->port; }

int HttpServer::num_connections() const { return impl_->shared.num_connections; }

void HttpServer::announce_drain() {
  impl_->shared.frontend.announce_drain();
  impl_->shared.draining = true;
  if (impl_->adopted) impl_->post_stop_accepting();
}

void HttpServer::begin_drain() {
  announce_drain();
  impl_->shared.frontend.begin_drain();
  impl_->shared.listening = false;
  impl_->post_stop_accepting();
}

void HttpServer::stop() {
  Impl& impl = *impl_;
  if (impl.running.empty()) return;
  begin_drain();
  impl.for_each_session([](HttpSession& session) { session.close_if_idle(); });
  if (!impl.wait_for_sessions(kStopGrace)) {
    log_warn("closing {} connections that did not end in time", impl.shared.num_connections.load());
    impl.for_each_session([](HttpSession& session) { session.abort(); });
    impl.wait_for_sessions(kStopGrace);
  }
  for (const auto& thread : impl.threads) {
    asio::post(thread->context, [t = thread.get()] { t->context.stop(); });
  }
  for (std::thread& thread : impl.running) thread.join();
  impl.running.clear();
  for (const auto& thread : impl.threads)
    impl.shared.frontend.hub().set_wake(thread->shard, nullptr);
}

}  // namespace sluice
