#pragma once

#include <array>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "server/http_api.h"

// For http_server.cc and http_session.cc only: this header brings in Asio and Beast.
namespace sluice {

namespace asio = boost::asio;
namespace http = boost::beast::http;

class HttpSession;

// What all connections share.
struct HttpShared {
  HttpShared(const Config::Server& c, Frontend& f)
      : max_body_bytes(c.max_body_bytes), frontend(f), api(f) {}
  const int64_t max_body_bytes;  // other limits may change: Frontend::limits()
  Frontend& frontend;
  HttpApi api;
  std::atomic<int> num_connections{0};
  std::atomic<bool> draining{false};  // every answer says close
  std::atomic<bool> listening{true};  // until begin_drain()
};

// One event loop and what belongs to it.
struct HttpThread {
  explicit HttpThread(int index) : shard(index), sweep(context) {}
  const int shard;
  asio::io_context context{1};
  asio::steady_timer sweep;  // looks for connections whose deadline has passed
  std::unordered_set<HttpSession*> sessions;
  std::array<char, 64 << 10>
      scratch;  // every read goes through here: idle connections hold no buffer
};

// One connection: reads requests one after another, answers each before it reads the next (requests
// sent ahead wait in `in_`). While a response is being made the socket is still read, which is how
// a client that has left is noticed although nothing is being written.
//
// End of input counts as having left: TCP cannot tell a closed client from one that only shut its
// sending side, and work for nobody is the worse mistake. Such a client still gets an error body.
//
// Bytes leave by non-blocking writes straight from the hub's wake-up; the coroutine sleeps until
// the response ends. A client that reads nothing for write_timeout_seconds, or lets more than
// kMaxUnsent pile up, is dropped.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  // `over_limit`: one connection too many, to be told so and closed.
  HttpSession(asio::ip::tcp::socket, HttpThread&, HttpShared&, bool over_limit);
  ~HttpSession();
  static void run(std::shared_ptr<HttpSession>);

  void check_deadlines(Instant now);
  void close_if_idle();  // between requests
  void abort();          // closes now

 private:
  using Parser = http::request_parser<http::string_body>;

  asio::awaitable<void> serve();
  asio::awaitable<bool> read_request(Parser&, MaybeError& error);
  asio::awaitable<bool> read_more();
  asio::awaitable<bool> respond(HttpResponse&);
  asio::awaitable<void> generate(HttpResponse&);
  asio::awaitable<bool> send_all();
  asio::awaitable<void> linger();
  asio::awaitable<void> wait();

  bool parse_some(Parser&, MaybeError& error);
  bool wants_continue(const Parser&) const;
  ApiError incomplete() const;
  HttpResponse answer(Parser&, const MaybeError& error);
  void append_end(HttpResponse&);
  bool on_reply(HttpReply&, const HttpResponse&);
  void append_head(const HttpResponse&, int64_t content_length);
  void append_whole(const HttpResponse&);
  void append_chunk(std::string_view bytes);
  void start_read();
  void write_some();
  void start_write_wait();
  void notify() { signal_.cancel(); }
  void read_request_id(const Parser&);

  asio::ip::tcp::socket socket_;
  HttpThread& thread_;
  HttpShared& shared_;
  const bool over_limit_;
  asio::steady_timer signal_;  // never expires: cancelled to wake the coroutine

  std::string in_;   // received, not yet parsed
  std::string out_;  // to be sent, from `sent_` on
  size_t sent_ = 0;
  bool read_pending_ = false, write_pending_ = false;
  bool eof_ = false;        // nothing more will come
  bool dead_ = false;       // nothing more can be sent
  bool timed_out_ = false;  // the read deadline has passed
  bool idle_ = false;       // between requests
  bool generating_ = false;
  bool late_ = false;  // the answer's deadline has passed
  Instant read_deadline_ = kNever, write_deadline_ = kNever, answer_deadline_ = kNever;

  // Of the current response.
  std::string request_id_;
  Instant received_{};
  bool head_only_ = false, keep_alive_ = false, chunked_ = false, head_sent_ = false;
};

}  // namespace sluice
