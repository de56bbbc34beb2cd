// Messages of the gRPC API. The first byte says which; the rest is what a client sent.
#include <google/protobuf/stubs/logging.h>

#include "base/check.h"
#include "server/grpc_convert.h"
#include "text/utf8.h"

namespace sluice {
namespace {

void check(const MaybeError& error) {
  if (!error) return;
  const grpc::Status status = to_status(*error);
  CHECK(!status.ok() && !status.error_message().empty());
  CHECK(utf8_valid_prefix(status.error_message()) == status.error_message().size());
}

template <class Message>
void convert(std::string_view bytes) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  ApiRequest request;
  check(from_proto(message, &request));
  CHECK(request.prompts.size() <= 1);
}

}  // namespace

void fuzz_one(std::string_view input) {
  [[maybe_unused]] static const auto previous = google::protobuf::SetLogHandler(nullptr);  // noisy
  if (input.empty()) return;
  const std::string_view bytes = input.substr(1);
  switch (input[0]) {
    case 'g':
      return convert<v1::GenerateRequest>(bytes);
    case 't':
      return convert<v1::TokenizeRequest>(bytes);
    default:
      return convert<v1::ChatRequest>(bytes);
  }
}

}  // namespace sluice
