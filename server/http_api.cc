#include "server/http_api.h"

#include <exception>

#include "base/version.h"
#include "server/json_text.h"
#include "server/logprobs.h"
#include "server/openai_api.h"
#include "server/request_json.h"

namespace sluice {
namespace {

constexpr size_t kMaxIgnoredBytes = 1024;

// Names come from the client: what is not plain in a header is percent-encoded.
std::string header_list(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    std::string name;
    for (const char c : names[i]) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte > 0x20 && byte < 0x7f && c != ',' && c != '%') {
        name += c;
      } else {
        name += fmt::format("%{:02X}", byte);
      }
    }
    if (out.size() + name.size() > kMaxIgnoredBytes) {
      out += fmt::format("{}+{}", out.empty() ? "" : ", ", names.size() - i);
      break;
    }
    if (!out.empty()) out += ", ";
    out += name;
  }
  return out;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// "/v1/models/?x=y" -> "/models"
std::string_view canonical(std::string_view target) {
  target = target.substr(0, target.find('?'));
  if (target.starts_with("/v1/")) target.remove_prefix(3);
  while (target.size() > 1 && target.ends_with('/')) target.remove_suffix(1);
  return target;
}

void append_model(std::string& out, const ModelInfo& model) {
  out += R"({"id":)";
  append_json_lossy(out, model.name);
  out += R"(,"object":"model","created":)";
  append_int(out, model.created);
  out += R"(,"owned_by":"sluice","root":)";
  append_json_lossy(out, model.name);
  out += R"(,"parent":null,"max_model_len":)";
  append_int(out, model.max_model_len);
  if (model.random_weights) out += R"(,"weights":"random")";
  out += ",\"permission\":[]}";
}

ReplyFormat reply_format(const ApiRequest& request, const Job& job, const ModelInfo& model) {
  ReplyFormat format;
  format.kind = request.kind;
  format.id = job.id;
  format.model = model.name;
  format.created = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  format.choices_per_prompt = job.stream.num_choices;
  format.num_choices = format.choices_per_prompt * static_cast<int>(job.requests.size());
  format.logprobs = request.logprobs.has_value();
  format.tokens_as_ids = request.return_tokens_as_token_ids;
  format.token_ids = request.return_token_ids;
  format.prompt_logprobs = request.prompt_logprobs.has_value();
  format.include_usage = request.include_usage;
  format.continuous_usage = request.include_usage && request.continuous_usage;
  format.tokenizer = model.tokenizer;
  return format;
}

}  // namespace

HttpResponse error_response(const ApiError& error) {
  HttpResponse out;
  out.status = error.http_status();
  out.body = error.body();
  if (const int ms = error.retry_after_ms(); ms > 0) {
    out.headers.emplace_back("Retry-After", std::to_string((ms + 999) / 1000));
    out.headers.emplace_back("retry-after-ms", std::to_string(ms));
  }
  if (out.status >= 400)
    out.headers.emplace_back("x-should-retry", error.retryable() ? "true" : "false");
  return out;
}

struct HttpApi::Route {
  std::string_view method, path;
  HttpResponse (HttpApi::*handler)(const HttpRequest&, std::string_view rest);
  bool takes_rest = false;       // matches what is below the path
  std::string_view suffix = "";  // and ends with this, which is not part of the rest

  bool matches(std::string_view target) const {
    if (!takes_rest) return target == path;
    return target.size() > path.size() + suffix.size() && target.starts_with(path) &&
           target.ends_with(suffix);
  }
  std::string_view rest(std::string_view target) const {
    target.remove_prefix(path.size());
    return target.substr(0, target.size() - suffix.size());
  }
};

const HttpApi::Route HttpApi::kRoutes[] = {
    {"POST", "/completions", &HttpApi::completions},
    {"POST", "/chat/completions", &HttpApi::chat},
    {"POST", "/tokenize", &HttpApi::tokenize},
    {"POST", "/detokenize", &HttpApi::detokenize},
    {"GET", "/models", &HttpApi::models},
    {"GET", "/models/", &HttpApi::model, true},
    {"GET", "/version", &HttpApi::version},
    {"GET", "/metrics", &HttpApi::metrics},
    {"GET", "/health", &HttpApi::ready},
    {"GET", "/health/live", &HttpApi::live},
    {"GET", "/health/ready", &HttpApi::ready},
    {"GET", "/ping", &HttpApi::live},
    {"GET", "/load", &HttpApi::load},
    {"GET", "/requests", &HttpApi::requests},
    {"GET", "/requests/", &HttpApi::trace, true, "/trace"},
    {"DELETE", "/requests/", &HttpApi::cancel, true},
};

HttpResponse HttpApi::handle(const HttpRequest& request) {
  const std::string_view path = canonical(request.target);
  const std::string_view method = request.method == "HEAD" ? "GET" : request.method;
  const bool encoded = !request.content_encoding.empty() && request.content_encoding != "identity";
  const Route* other = nullptr;  // the path's, with another method
  for (const Route& route : kRoutes) {
    if (!route.matches(path)) continue;
    if (method != route.method) {
      if (other == nullptr) other = &route;
      continue;
    }
    HttpResponse out;
    if (method == "POST" && encoded) {
      out = refuse(api_error(ErrorKind::unsupported_media, "",
                             "a body with Content-Encoding {} is not supported",
                             request.content_encoding.substr(0, 100)));
    } else {
      out = guarded(route, request, path);
    }
    out.route = route.path;
    return out;
  }
  HttpResponse out;
  if (other == nullptr) {
    out = refuse(api_error(ErrorKind::route_not_found, "", "there is no route {} {}",
                           request.method, path.substr(0, 200)));
  } else if (method == "OPTIONS") {
    out.status = 204;
  } else {
    out = refuse(api_error(ErrorKind::method_not_allowed, "", "{} is not allowed on {}; use {}",
                           request.method, path.substr(0, 200), other->method));
  }
  if (other != nullptr)
    out.headers.emplace_back("Allow", other->method == "GET"
                                          ? "GET, HEAD, OPTIONS"
                                          : std::string(other->method) + ", OPTIONS");
  out.route = other != nullptr ? other->path : "none";
  return out;
}

HttpResponse HttpApi::guarded(const Route& route, const HttpRequest& request,
                              std::string_view path) {
  try {
    return (this->*route.handler)(request, route.rest(path));
  } catch (const std::exception& e) {
    return refuse(api_error_thrown(e, fmt::format("{} {}", request.method, route.path)));
  }
}

HttpResponse HttpApi::refuse(const ApiError& error) {
  frontend_.count_rejected(error);
  return error_response(error);
}

HttpResponse HttpApi::completions(const HttpRequest& http, std::string_view) {
  if (auto error = frontend_.accepting()) return refuse(*error);
  if (auto error = frontend_.admit(static_cast<int64_t>(http.body.size()))) return refuse(*error);
  ApiRequest request;
  if (auto error = parse_completion(http.body, &request)) return refuse(*error);
  return generate(http, std::move(request));
}

HttpResponse HttpApi::chat(const HttpRequest& http, std::string_view) {
  if (auto error = frontend_.accepting()) return refuse(*error);
  if (auto error = frontend_.admit(static_cast<int64_t>(http.body.size()))) return refuse(*error);
  ApiRequest request;
  if (auto error = parse_chat(http.body, &request)) return refuse(*error);
  return generate(http, std::move(request));
}

HttpResponse HttpApi::generate(const HttpRequest& http, ApiRequest request) {
  request.received = http.received;
  request.body_bytes = static_cast<int64_t>(http.body.size());
  Job job;
  if (auto error = frontend_.prepare(request, &job)) return refuse(*error);
  HttpResponse out;
  out.reply = std::make_shared<HttpReply>();
  ReplyFormat format = reply_format(request, job, frontend_.model());
  std::unique_ptr<ChunkWriter> writer = request.stream
                                            ? make_sse_writer(std::move(format), out.reply)
                                            : make_json_writer(std::move(format), out.reply);
  if (auto error = frontend_.start(http.shard, std::move(job), std::move(writer), &out.stream))
    return refuse(*error);
  if (request.stream) {
    out.content_type = "text/event-stream; charset=utf-8";
    out.headers.emplace_back("Cache-Control", "no-cache");
    out.headers.emplace_back("X-Accel-Buffering", "no");
  }
  if (!request.ignored.empty())
    out.headers.emplace_back("x-ignored-params", header_list(request.ignored));
  return out;
}

namespace {

// An answer that the engine has a part in. `ask` gets what to call with it.
template <class Ask>
HttpResponse ask_engine(const HttpRequest& http,
                        std::string (*to_json)(const std::vector<RequestView>&), Ask ask) {
  HttpResponse out;
  out.reply = std::make_shared<HttpReply>();
  out.reply->give_up = http.received + kInspectLimit;
  out.reply->late = no_answer_error();
  ask([reply = out.reply, to_json](const MaybeError& error, const std::vector<RequestView>& views) {
    reply->error = error;
    if (!error) reply->bytes = to_json(views);
    reply->ended = true;
    if (reply->wake) reply->wake();
  });
  return out;
}

}  // namespace

HttpResponse HttpApi::requests(const HttpRequest& http, std::string_view) {
  return ask_engine(http, &list_json, [&](RequestAnswer done) {
    frontend_.list_requests(http.shard, std::move(done));
  });
}

HttpResponse HttpApi::trace(const HttpRequest& http, std::string_view rest) {
  return ask_engine(http, &trace_json, [&](RequestAnswer done) {
    frontend_.request_trace(http.shard, percent_decode(rest), std::move(done));
  });
}

HttpResponse HttpApi::cancel(const HttpRequest&, std::string_view rest) {
  const std::string id = percent_decode(rest);
  if (auto error = frontend_.cancel_request(id)) return error_response(*error);
  HttpResponse out;
  out.body = R"({"id":)";
  append_json_lossy(out.body, id);
  out.body += R"(,"cancelled":true})";
  return out;
}

HttpResponse HttpApi::tokenize(const HttpRequest& http, std::string_view) {
  ApiRequest request;
  bool want_strings = false;
  if (auto error = parse_tokenize(http.body, &request, &want_strings)) return refuse(*error);
  std::vector<TokenId> ids;
  if (auto error = frontend_.tokenize(request, &ids)) return refuse(*error);
  HttpResponse out;
  out.body = fmt::format(R"({{"count":{},"max_model_len":{},"tokens":)", ids.size(),
                         frontend_.model().max_model_len);
  append_ids(out.body, ids);
  out.body += R"(,"token_strs":)";
  if (want_strings) {
    for (size_t i = 0; i < ids.size(); ++i) {
      out.body += i == 0 ? '[' : ',';
      append_json_lossy(out.body, frontend_.model().tokenizer->piece(ids[i]));
    }
    out.body += ids.empty() ? "[]" : "]";
  } else {
    out.body += "null";
  }
  out.body += '}';
  if (!request.ignored.empty())
    out.headers.emplace_back("x-ignored-params", header_list(request.ignored));
  return out;
}

HttpResponse HttpApi::detokenize(const HttpRequest& http, std::string_view) {
  std::string model, text;
  std::vector<TokenId> ids;
  if (auto error = parse_detokenize(http.body, &model, &ids)) return refuse(*error);
  if (auto error = frontend_.check_model(model)) return refuse(*error);
  if (auto error = frontend_.detokenize(ids, &text)) return refuse(*error);
  HttpResponse out;
  out.body = R"({"prompt":)";
  append_json_string(out.body, text);
  out.body += '}';
  return out;
}

HttpResponse HttpApi::models(const HttpRequest&, std::string_view) {
  HttpResponse out;
  out.body = R"({"object":"list","data":[)";
  append_model(out.body, frontend_.model());
  out.body += "]}";
  return out;
}

// A model's name may hold slashes, encoded or not.
HttpResponse HttpApi::model(const HttpRequest&, std::string_view rest) {
  if (auto error = frontend_.check_model(percent_decode(rest))) return refuse(*error);
  HttpResponse out;
  append_model(out.body, frontend_.model());
  return out;
}

HttpResponse HttpApi::version(const HttpRequest&, std::string_view) {
  HttpResponse out;
  out.body = fmt::format(R"({{"version":"{}"}})", kVersion);
  return out;
}

HttpResponse HttpApi::metrics(const HttpRequest&, std::string_view) {
  HttpResponse out;
  out.content_type = "text/plain; version=0.0.4; charset=utf-8";
  out.body = frontend_.expose_metrics();
  return out;
}

HttpResponse HttpApi::live(const HttpRequest&, std::string_view) {
  if (frontend_.stalled())
    return error_response(api_error(ErrorKind::loading, "", "not alive: no step for {} s",
                                    frontend_.limits().stall_seconds.load()));
  HttpResponse out;
  out.content_type = "text/plain; charset=utf-8";
  return out;
}

HttpResponse HttpApi::ready(const HttpRequest&, std::string_view) {
  const Readiness readiness = frontend_.readiness();
  if (!readiness.ready) {
    const ErrorKind kind = frontend_.draining() ? ErrorKind::draining : ErrorKind::loading;
    return error_response(api_error(kind, "", "not ready: {}", readiness.reason));
  }
  HttpResponse out;
  out.content_type = "text/plain; charset=utf-8";
  return out;
}

HttpResponse HttpApi::load(const HttpRequest&, std::string_view) {
  const Scheduler::Stats stats = frontend_.stats();
  HttpResponse out;
  out.body = fmt::format(R"({{"server_load":{}}})", stats.running + stats.waiting);
  return out;
}

}  // namespace sluice
