#pragma once

#include <fmt/format.h>

#include <string_view>

// The process log, on stderr. Any thread. spdlog is behind log.cc only.
namespace sluice {

enum class LogLevel { debug, info, warn, error };

// `level`: debug|info|warn|error; `format`: text|json (one object a line). Unknown words are
// refused by the configuration before they come here.
void init_log(std::string_view level, std::string_view format);

void set_log_level(std::string_view level);  // any thread

bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view text);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::debug))
    log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::info))
    log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::warn))
    log_line(LogLevel::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::error))
    log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace sluice
