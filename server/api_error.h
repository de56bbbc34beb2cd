#pragma once

#include <exception>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sluice {

// Everything that can be wrong with a request, as a client sees it. One table in api_error.cc gives
// each kind its HTTP status, the `type` and `code` of the OpenAI error body, its gRPC code, and
// whether trying again can help.
enum class ErrorKind {
  invalid,             // 400: malformed, wrong type, out of range
  unsupported,         // 400: a known field with a value this server cannot honour
  context_length,      // 400: prompt + max_tokens does not fit the context
  model_not_found,     // 404
  route_not_found,     // 404
  request_not_found,   // 404: GET or DELETE /v1/requests/{id}
  method_not_allowed,  // 405
  request_timeout,     // 408: the client did not send its request in time
  too_large,           // 413
  headers_too_large,   // 431
  unsupported_media,   // 415: a content encoding we cannot read
  cancelled,           // 499: seen only by who half-closed, or whose request another cancelled
  internal,            // 500
  overloaded,          // 503: the queue is full
  predicted_late,      // 503: the first token would come too late
  draining,            // 503: shutting down
  loading,             // 503: not ready yet
  deadline,            // 504: the client's own deadline passed
};

struct ApiError {
  ErrorKind kind = ErrorKind::internal;
  std::string message;
  std::string param;  // the field at fault; empty: none
  int retry_ms = 0;   // when to try again; 0: as its kind says

  int http_status() const;
  std::string_view type() const;
  std::string_view code() const;         // empty: null in JSON
  absl::StatusCode status_code() const;  // the same number as gRPC's
  bool retryable() const;                // a later, or another, attempt may succeed
  int retry_after_ms() const;            // 0: no hint
  std::string body() const;              // {"error":{...}}, one line, always valid UTF-8
};

using MaybeError = std::optional<ApiError>;

template <class... Args>
ApiError api_error(ErrorKind kind, std::string_view param, fmt::format_string<Args...> format,
                   Args&&... args) {
  return {kind, fmt::format(format, std::forward<Args>(args)...), std::string(param)};
}

// What the layers below said, in the client's words.
ApiError api_error_from(const absl::Status& status, std::string_view param = {});

// What a request's handler threw, for the client and the log: memory that the system refuses (a
// ulimit, strict overcommit), or a bug. It costs that request alone.
ApiError api_error_thrown(const std::exception&, std::string_view request);

}  // namespace sluice
