#include "server/grpc_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>

#include "sluice/v1/inference.grpc.pb.h"

namespace sluice {

absl::Status chat(const ChatOptions& options) {
  v1::ChatRequest request;
  if (!options.system.empty()) {
    v1::ChatMessage* message = request.add_messages();
    message->set_role("system");
    message->set_content(options.system);
  }
  v1::ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content(options.text);
  v1::SamplingParams* sampling = request.mutable_sampling();
  if (options.max_tokens) sampling->set_max_tokens(*options.max_tokens);
  if (options.temperature) sampling->set_temperature(static_cast<float>(*options.temperature));
  if (options.seed) sampling->set_seed(*options.seed);

  const auto stub = v1::Inference::NewStub(
      grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<int64_t>(options.timeout_s * 1e3)));
  const auto reader = stub->Chat(&context, request);
  v1::ChatResponse response;
  while (reader->Read(&response)) {
    const std::string& text = response.piece().text();
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
  const grpc::Status status = reader->Finish();
  if (status.ok()) return absl::OkStatus();
  return make_status(static_cast<absl::StatusCode>(status.error_code()), "{}: {}", options.address,
                     status.error_message());
}

}  // namespace sluice
