#include "server/api_error.h"

#include <array>

#include "base/check.h"
#include "base/log.h"
#include "server/json_text.h"

namespace sluice {
namespace {

struct Row {
  ErrorKind kind;
  int http;
  std::string_view type, code;
  absl::StatusCode grpc;
  bool retryable;
  int retry_after_ms;
};

constexpr std::string_view kInvalid = "invalid_request_error";
constexpr std::string_view kServer = "server_error";

// In the order of the enumeration.
constexpr std::array<Row, 18> kTable = {{
    {ErrorKind::invalid, 400, kInvalid, "", absl::StatusCode::kInvalidArgument, false, 0},
    {ErrorKind::unsupported, 400, kInvalid, "unsupported_parameter",
     absl::StatusCode::kUnimplemented, false, 0},
    {ErrorKind::context_length, 400, kInvalid, "context_length_exceeded",
     absl::StatusCode::kInvalidArgument, false, 0},
    {ErrorKind::model_not_found, 404, kInvalid, "model_not_found", absl::StatusCode::kNotFound,
     false, 0},
    {ErrorKind::route_not_found, 404, kInvalid, "", absl::StatusCode::kUnimplemented, false, 0},
    {ErrorKind::request_not_found, 404, kInvalid, "request_not_found", absl::StatusCode::kNotFound,
     false, 0},
    {ErrorKind::method_not_allowed, 405, kInvalid, "", absl::StatusCode::kUnimplemented, false, 0},
    {ErrorKind::request_timeout, 408, "timeout", "", absl::StatusCode::kDeadlineExceeded, true, 0},
    {ErrorKind::too_large, 413, kInvalid, "request_too_large", absl::StatusCode::kResourceExhausted,
     false, 0},
    {ErrorKind::headers_too_large, 431, kInvalid, "request_too_large",
     absl::StatusCode::kResourceExhausted, false, 0},
    {ErrorKind::unsupported_media, 415, kInvalid, "", absl::StatusCode::kInvalidArgument, false, 0},
    {ErrorKind::cancelled, 499, kServer, "cancelled", absl::StatusCode::kCancelled, false, 0},
    {ErrorKind::internal, 500, kServer, "", absl::StatusCode::kInternal, true, 0},
    {ErrorKind::overloaded, 503, kServer, "overloaded", absl::StatusCode::kResourceExhausted, true,
     1000},
    {ErrorKind::predicted_late, 503, kServer, "overloaded", absl::StatusCode::kResourceExhausted,
     true, 1000},
    {ErrorKind::draining, 503, kServer, "draining", absl::StatusCode::kUnavailable, true, 1000},
    {ErrorKind::loading, 503, kServer, "model_loading", absl::StatusCode::kUnavailable, true, 1000},
    {ErrorKind::deadline, 504, kServer, "deadline_exceeded", absl::StatusCode::kDeadlineExceeded,
     false, 0},
}};

const Row& row_of(ErrorKind kind) {
  const Row& row = kTable[static_cast<size_t>(kind)];
  CHECK(row.kind == kind);
  return row;
}

}  // namespace

int ApiError::http_status() const { return row_of(kind).http; }
std::string_view ApiError::type() const { return row_of(kind).type; }
std::string_view ApiError::code() const { return row_of(kind).code; }
absl::StatusCode ApiError::status_code() const { return row_of(kind).grpc; }
bool ApiError::retryable() const { return row_of(kind).retryable; }
int ApiError::retry_after_ms() const {
  return retry_ms > 0 ? retry_ms : row_of(kind).retry_after_ms;
}

std::string ApiError::body() const {
  const auto string_or_null = [](std::string& out, std::string_view text) {
    if (text.empty()) {
      out += "null";
    } else {
      append_json_lossy(out, text);
    }
  };
  std::string out = R"({"error":{"message":)";
  append_json_lossy(out, message);
  out += R"(,"type":)";
  append_json_string(out, type());
  out += R"(,"param":)";
  string_or_null(out, param);
  out += R"(,"code":)";
  string_or_null(out, code());
  out += "}}";
  return out;
}

ApiError api_error_from(const absl::Status& status, std::string_view param) {
  ErrorKind kind = ErrorKind::internal;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      kind = ErrorKind::invalid;
      break;
    case absl::StatusCode::kUnimplemented:
      kind = ErrorKind::unsupported;
      break;
    case absl::StatusCode::kNotFound:
      kind = ErrorKind::model_not_found;
      break;
    case absl::StatusCode::kResourceExhausted:
      kind = ErrorKind::overloaded;
      break;
    case absl::StatusCode::kUnavailable:
      kind = ErrorKind::draining;
      break;
    case absl::StatusCode::kDeadlineExceeded:
      kind = ErrorKind::deadline;
      break;
    case absl::StatusCode::kCancelled:
      kind = ErrorKind::cancelled;
      break;
    default:
      break;
  }
  return {kind, std::string(message_of(status)), std::string(param)};
}

ApiError api_error_thrown(const std::exception& e, std::string_view request) {
  log_error("{}: {}", request, e.what());
  return api_error(ErrorKind::internal, "", "the request could not be handled: {}", e.what());
}

}  // namespace sluice
