#include "server/http_session.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/error.hpp>
#include <cctype>
#include <charconv>
#include <exception>
#include <utility>

#include "base/log.h"

namespace sluice {
namespace {

using std::chrono::seconds;

constexpr size_t kMaxHeaderBytes = 32 << 10;
constexpr size_t kMaxAhead = 64 << 10;  // of requests sent before the answer to the last
constexpr size_t kMaxUnsent = 1 << 20;
constexpr size_t kMaxDiscard = 64 << 20;
constexpr Nanos kIdleLimit = seconds(75);
constexpr Nanos kLastIdleLimit = seconds(1);  // of who connected as the listener was closed
constexpr Nanos kLingerLimit = seconds(2);

Instant now() { return std::chrono::steady_clock::now(); }

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

std::string_view reason_of(int status) {
  if (status == 499) return "Client Closed Request";
  const auto text = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return view(text);
}

ApiError parse_failure(boost::system::error_code ec, const HttpShared& shared) {
  if (ec == http::error::body_limit)
    return api_error(ErrorKind::too_large, "", "the body is larger than {} bytes",
                     shared.max_body_bytes);
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow)
    return api_error(ErrorKind::headers_too_large, "", "the headers are larger than {} bytes",
                     kMaxHeaderBytes);
  return api_error(ErrorKind::invalid, "", "malformed HTTP request: {}", ec.message());
}

bool is_sane_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

std::string draw_request_id() {
  static std::atomic<uint64_t> counter{
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count())};
  return fmt::format("req-{:016x}", counter.fetch_add(1, std::memory_order_relaxed));
}

}  // namespace

HttpSession::HttpSession(asio::ip::tcp::socket socket, HttpThread& thread, HttpShared& shared,
                         bool over_limit)
    : socket_(std::move(socket)),
      thread_(thread),
      shared_(shared),
      over_limit_(over_limit),
      signal_(thread.context, asio::steady_timer::time_point::max()) {
  boost::system::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  thread_.sessions.insert(this);
}

HttpSession::~HttpSession() {
  thread_.sessions.erase(this);
  shared_.num_connections.fetch_sub(1);
}

void HttpSession::run(std::shared_ptr<HttpSession> session) {
  HttpThread& thread = session->thread_;
  asio::co_spawn(
      thread.context,
      [session]() -> asio::awaitable<void> {
        co_await session->serve();
        boost::system::error_code ignored;
        session->socket_.close(ignored);
      },
      [](std::exception_ptr failure) {
        if (!failure) return;
        try {
          std::rethrow_exception(failure);
        } catch (const std::exception& e) {
          log_error("an HTTP connection was dropped: {}", e.what());
        }
      });
}

void HttpSession::check_deadlines(Instant at) {
  if (at >= write_deadline_) {
    log_info("request {}: the client stopped reading and was dropped", request_id_);
    abort();
  } else if (at >= read_deadline_) {
    timed_out_ = true;
    read_deadline_ = kNever;
    notify();
  } else if (at >= answer_deadline_) {
    late_ = true;
    answer_deadline_ = kNever;
    notify();
  }
}

void HttpSession::close_if_idle() {
  if (!idle_) return;
  eof_ = true;
  notify();
}

void HttpSession::abort() {
  dead_ = eof_ = true;
  write_deadline_ = read_deadline_ = kNever;
  boost::system::error_code ignored;
  // Unsent bytes must not linger in the kernel for a client that does not read them.
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  socket_.close(ignored);
  notify();
}

asio::awaitable<void> HttpSession::wait() {
  boost::system::error_code ignored;
  co_await signal_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

// --- reading ---

void HttpSession::start_read() {
  if (read_pending_ || eof_) return;
  read_pending_ = true;
  socket_.async_wait(
      asio::socket_base::wait_read, [self = shared_from_this()](boost::system::error_code ec) {
        self->read_pending_ = false;
        if (!ec) {
          const size_t n = self->socket_.read_some(asio::buffer(self->thread_.scratch), ec);
          self->in_.append(self->thread_.scratch.data(), n);
        }
        if (ec && ec != asio::error::would_block) self->eof_ = true;
        // Somebody must go on reading, or nobody would notice that the client has left.
        if (self->generating_ && self->in_.size() < kMaxAhead) self->start_read();
        if (self->eof_ || !self->generating_) self->notify();
      });
}

// True: bytes have come. False: end of input, or the deadline has passed.
asio::awaitable<bool> HttpSession::read_more() {
  const size_t before = in_.size();
  while (in_.size() == before && !eof_ && !timed_out_) {
    start_read();
    co_await wait();
  }
  co_return in_.size() > before;
}

// False: the connection is over. Otherwise a request was read, or `error` says what is wrong.
asio::awaitable<bool> HttpSession::read_request(Parser& parser, MaybeError& error) {
  parser.eager(true);
  parser.header_limit(kMaxHeaderBytes);
  parser.body_limit(static_cast<uint64_t>(shared_.max_body_bytes));
  idle_ = in_.empty();
  timed_out_ = false;
  read_deadline_ = now() + (shared_.listening ? kIdleLimit : kLastIdleLimit);
  if (idle_) {
    const bool begun = co_await read_more();
    if (!begun) co_return false;
  }
  idle_ = false;
  read_deadline_ = now() + seconds(shared_.frontend.limits().body_timeout_seconds);
  bool told_to_continue = false;
  while (!parse_some(parser, error)) {
    if (wants_continue(parser) && !std::exchange(told_to_continue, true)) {
      out_ += "HTTP/1.1 100 Continue\r\n\r\n";
      const bool sent = co_await send_all();
      if (!sent) co_return false;
    }
    const bool more = co_await read_more();
    if (more) continue;
    if (dead_) co_return false;
    error = incomplete();
    break;
  }
  read_deadline_ = kNever;
  co_return true;
}

// True: the request is complete, or wrong.
bool HttpSession::parse_some(Parser& parser, MaybeError& error) {
  while (true) {
    boost::system::error_code ec;
    const size_t used = parser.put(asio::buffer(in_), ec);
    in_.erase(0, used);
    if (ec && ec != http::error::need_more) {
      error = parse_failure(ec, shared_);
      return true;
    }
    if (parser.is_done()) return true;
    if (used == 0 || in_.empty()) return false;
  }
}

bool HttpSession::wants_continue(const Parser& parser) const {
  return parser.is_header_done() &&
         boost::beast::iequals(parser.get()[http::field::expect], "100-continue");
}

ApiError HttpSession::incomplete() const {
  if (timed_out_)
    return api_error(ErrorKind::request_timeout, "",
                     "the request was not received within {} seconds",
                     shared_.frontend.limits().body_timeout_seconds.load());
  return api_error(ErrorKind::invalid, "",
                   "the connection was closed in the middle of the request");
}

// --- writing ---

void HttpSession::write_some() {
  if (dead_) return;
  while (sent_ < out_.size()) {
    boost::system::error_code ec;
    sent_ += socket_.write_some(asio::buffer(out_.data() + sent_, out_.size() - sent_), ec);
    if (ec == asio::error::would_block || ec == asio::error::try_again) {
      start_write_wait();
      return;
    }
    if (ec) {
      dead_ = true;
      notify();
      return;
    }
    if (write_deadline_ != kNever)
      write_deadline_ = now() + seconds(shared_.frontend.limits().write_timeout_seconds);
  }
  if (out_.capacity() > kMaxUnsent) {
    out_ = {};
  } else {
    out_.clear();
  }
  sent_ = 0;
  write_deadline_ = kNever;
}

void HttpSession::start_write_wait() {
  if (write_deadline_ == kNever)
    write_deadline_ = now() + seconds(shared_.frontend.limits().write_timeout_seconds);
  if (std::exchange(write_pending_, true)) return;
  socket_.async_wait(asio::socket_base::wait_write,
                     [self = shared_from_this()](boost::system::error_code ec) {
                       self->write_pending_ = false;
                       if (ec) self->dead_ = true;
                       self->write_some();
                       if (self->dead_ || self->out_.empty()) self->notify();
                     });
}

asio::awaitable<bool> HttpSession::send_all() {
  write_some();
  while (!out_.empty() && !dead_) co_await wait();
  co_return !dead_;
}

void HttpSession::append_head(const HttpResponse& response, int64_t content_length) {
  const auto field = [this](std::string_view name, std::string_view value) {
    out_.append(name).append(": ").append(value).append("\r\n");
  };
  out_ += fmt::format("HTTP/1.1 {} {}\r\n", response.status, reason_of(response.status));
  if (response.status != 204) field("Content-Type", response.content_type);
  for (const auto& [name, value] : response.headers) field(name, value);
  field("x-request-id", request_id_);
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(now() - received_);
  field("openai-processing-ms", fmt::format("{}", elapsed.count()));
  if (content_length >= 0) {
    if (response.status != 204) field("Content-Length", fmt::format("{}", content_length));
  } else if (chunked_) {
    field("Transfer-Encoding", "chunked");
  }
  field("Connection", keep_alive_ ? "keep-alive" : "close");
  out_ += "\r\n";
  head_sent_ = true;
  shared_.frontend.metrics()
      .http_requests(std::string(response.route), response.status)
      .Increment();
}

void HttpSession::append_whole(const HttpResponse& response) {
  append_head(response, static_cast<int64_t>(response.body.size()));
  if (!head_only_) out_ += response.body;
}

void HttpSession::append_chunk(std::string_view bytes) {
  if (bytes.empty()) return;
  if (!chunked_) {  // HTTP/1.0: until the connection closes
    out_ += bytes;
    return;
  }
  std::array<char, 16> size;
  const auto [end, ec] = std::to_chars(size.data(), size.data() + size.size(), bytes.size(), 16);
  out_.append(size.data(), end);
  out_ += "\r\n";
  out_ += bytes;
  out_ += "\r\n";
}

// --- responding ---

// From the hub's wake-up. False: the connection is gone, the hub cancels the request.
bool HttpSession::on_reply(HttpReply& reply, const HttpResponse& response) {
  if (dead_) return false;
  if (reply.streaming && !reply.bytes.empty()) {
    if (!head_sent_) append_head(response, -1);
    append_chunk(reply.bytes);
    reply.bytes.clear();
    write_some();
    if (out_.size() - sent_ > kMaxUnsent) {
      log_info("request {}: the client reads too slowly and was dropped", request_id_);
      abort();
    }
  }
  if (reply.ended) notify();
  return !dead_;
}

// Returns when the reply has ended, or its client has left. Coroutines take references and hold no
// locals with destructors across a wait where that can be had: g++ 12 is not to be trusted there.
asio::awaitable<void> HttpSession::generate(HttpResponse& response) {
  HttpReply& reply = *response.reply;
  reply.wake = [this, &response] { return on_reply(*response.reply, response); };
  generating_ = true;
  if (in_.size() < kMaxAhead) start_read();
  late_ = false;
  answer_deadline_ = reply.give_up;
  while (!reply.ended && !dead_ && !eof_ && !late_) co_await wait();
  answer_deadline_ = kNever;
  generating_ = false;
  reply.wake = nullptr;
}

// What is left to say after generate().
void HttpSession::append_end(HttpResponse& response) {
  HttpReply& reply = *response.reply;
  if (!reply.ended && late_) {
    reply.error = reply.late;
  } else if (!reply.ended) {
    shared_.frontend.cancel(thread_.shard, response.stream);
    keep_alive_ = false;
    reply.error = api_error(ErrorKind::cancelled, "",
                            "the client closed its side of the connection; keep it open until the "
                            "response ends");
    if (head_sent_) append_chunk("data: " + reply.error->body() + "\n\n");
  }
  if (head_sent_) {
    if (chunked_) out_ += "0\r\n\r\n";
    if (reply.error) keep_alive_ = false;
  } else if (reply.error) {
    HttpResponse refused = error_response(*reply.error);
    refused.route = response.route;
    append_whole(refused);
  } else {
    response.body = std::move(reply.bytes);
    append_whole(response);
  }
}

void HttpSession::read_request_id(const Parser& parser) {
  const std::string_view sent = view(parser.get()["x-request-id"]);
  request_id_ = is_sane_id(sent) ? std::string(sent) : draw_request_id();
}

// False: close the connection.
asio::awaitable<bool> HttpSession::respond(HttpResponse& response) {
  head_sent_ = false;
  if (response.reply) {
    co_await generate(response);
    append_end(response);
  } else {
    append_whole(response);
  }
  const bool sent = co_await send_all();
  co_return sent&& keep_alive_;
}

// The client may still be sending what it was refused for: a close would reset the connection and
// could destroy the answer on its way. So its bytes are read and thrown away for a while.
asio::awaitable<void> HttpSession::linger() {
  if (dead_) co_return;
  boost::system::error_code ignored;
  socket_.shutdown(asio::socket_base::shutdown_send, ignored);
  read_deadline_ = now() + kLingerLimit;
  timed_out_ = false;
  in_.clear();
  for (size_t total = 0; total < kMaxDiscard; total += in_.size()) {
    in_.clear();
    const bool more = co_await read_more();
    if (!more) break;
  }
  read_deadline_ = kNever;
}

// What to answer to a request that was read, or not.
HttpResponse HttpSession::answer(Parser& parser, const MaybeError& error) {
  received_ = now();
  auto& message = parser.get();
  head_only_ = message.method() == http::verb::head;
  chunked_ = message.version() >= 11;
  keep_alive_ = !error && !over_limit_ && message.keep_alive() && !shared_.draining;
  read_request_id(parser);
  HttpResponse response;
  if (over_limit_) {
    response = error_response(api_error(ErrorKind::overloaded, "",
                                        "too many connections (server.max_connections is {})",
                                        shared_.frontend.limits().max_connections.load()));
    response.route = "none";
  } else if (error) {
    response = error_response(*error);
    response.route = "none";
  } else {
    response = shared_.api.handle({view(message.method_string()), view(message.target()),
                                   view(message[http::field::content_encoding]), message.body(),
                                   received_, thread_.shard});
    std::string().swap(message.body());  // a stream may last long
  }
  log_debug("request {}: {} {} -> {}", request_id_, view(message.method_string()),
            view(message.target()), response.status);
  return response;
}

asio::awaitable<void> HttpSession::serve() {
  bool open = true;
  while (open) {
    Parser parser;
    MaybeError error;
    const bool got = co_await read_request(parser, error);
    if (!got) co_return;
    HttpResponse response = answer(parser, error);
    open = co_await respond(response);
    if (error) co_await linger();
  }
}

}  // namespace sluice
