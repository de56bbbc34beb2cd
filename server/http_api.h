#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/chunk_writers.h"
#include "server/frontend.h"

namespace sluice {

// A whole request, as the connection read it. Views into the connection's buffers.
struct HttpRequest {
  std::string_view method, target, content_encoding, body;
  Instant received{};
  int shard = 0;  // the calling thread's
};

struct HttpResponse {
  int status = 200;
  std::string_view content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string_view, std::string>> headers;
  std::string_view route;  // the matched pattern, for the metrics

  // An answer that is yet to come: the body is `reply`'s. A generation's `stream` names it for
  // Frontend::cancel.
  std::shared_ptr<HttpReply> reply;
  RequestId stream = 0;
};

// What every error answer carries beside its body: retry hints.
HttpResponse error_response(const ApiError&);

// Routes and handlers; knows nothing of sockets. Stateless: every I/O thread calls the same one.
class HttpApi {
 public:
  explicit HttpApi(Frontend& frontend) : frontend_(frontend) {}

  // What a handler throws is a 500. When `reply` comes back set, its `wake` is for the caller to
  // fill in before control returns to the event loop.
  HttpResponse handle(const HttpRequest&);

 private:
  struct Route;
  static const Route kRoutes[];

  HttpResponse guarded(const Route&, const HttpRequest&, std::string_view path);
  HttpResponse completions(const HttpRequest&, std::string_view rest);
  HttpResponse chat(const HttpRequest&, std::string_view rest);
  HttpResponse generate(const HttpRequest&, ApiRequest);
  HttpResponse tokenize(const HttpRequest&, std::string_view rest);
  HttpResponse detokenize(const HttpRequest&, std::string_view rest);
  HttpResponse models(const HttpRequest&, std::string_view rest);
  HttpResponse model(const HttpRequest&, std::string_view rest);
  HttpResponse version(const HttpRequest&, std::string_view rest);
  HttpResponse metrics(const HttpRequest&, std::string_view rest);
  HttpResponse live(const HttpRequest&, std::string_view rest);
  HttpResponse ready(const HttpRequest&, std::string_view rest);
  HttpResponse load(const HttpRequest&, std::string_view rest);
  HttpResponse requests(const HttpRequest&, std::string_view rest);
  HttpResponse trace(const HttpRequest&, std::string_view rest);
  HttpResponse cancel(const HttpRequest&, std::string_view rest);
  HttpResponse refuse(const ApiError&);

  Frontend& frontend_;
};

}  // namespace sluice
