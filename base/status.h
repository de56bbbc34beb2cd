#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <string>
#include <string_view>

// Errors that a user can cause, built with fmt. Distributions may ship an absl whose string_view is
// not std::string_view; these helpers are the only place that has to know.
namespace sluice {

template <class... Args>
absl::Status make_status(absl::StatusCode code, fmt::format_string<Args...> format,
                         Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  return absl::Status(code, absl::string_view(text.data(), text.size()));
}

template <class... Args>
absl::Status invalid_argument(fmt::format_string<Args...> format, Args&&... args) {
  return make_status(absl::StatusCode::kInvalidArgument, format, std::forward<Args>(args)...);
}

template <class... Args>
absl::Status not_found(fmt::format_string<Args...> format, Args&&... args) {
  return make_status(absl::StatusCode::kNotFound, format, std::forward<Args>(args)...);
}

template <class... Args>
absl::Status resource_exhausted(fmt::format_string<Args...> format, Args&&... args) {
  return make_status(absl::StatusCode::kResourceExhausted, format, std::forward<Args>(args)...);
}

// The service cannot answer now (loading, draining); the caller may retry elsewhere.
template <class... Args>
absl::Status unavailable(fmt::format_string<Args...> format, Args&&... args) {
  return make_status(absl::StatusCode::kUnavailable, format, std::forward<Args>(args)...);
}

// A known feature that this build or model does not offer.
template <class... Args>
absl::Status unimplemented(fmt::format_string<Args...> format, Args&&... args) {
  return make_status(absl::StatusCode::kUnimplemented, format, std::forward<Args>(args)...);
}

template <class... Args>
absl::Status internal_error(fmt::format_string<Args...> format, Args&&... args) {
  return make_status(absl::StatusCode::kInternal, format, std::forward<Args>(args)...);
}

inline std::string_view message_of(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

// The same code with `context: ` in front of the message.
inline absl::Status annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return make_status(status.code(), "{}: {}", context, message_of(status));
}

}  // namespace sluice
