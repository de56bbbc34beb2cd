#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <string>
#include <string_view>
#include <utility>

// A blocking HTTP/1.1 client that sees every byte: what a library would hide is what tests are
// about.
namespace sluice {

struct HttpAnswer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined
  bool complete = false;                       // the framing says that nothing is missing
  std::string header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? "" : it->second;
  }
};

class HttpClient {
 public:
  explicit HttpClient(int port, int receive_buffer = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0)
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~HttpClient() { close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void reset() {  // a close that the other side sees as an error
    const linger hard{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close();
  }
  void half_close() { shutdown(fd_, SHUT_WR); }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  static std::string request(std::string_view method, std::string_view target,
                             std::string_view body = {}, std::string_view headers = {}) {
    std::string out = std::string(method) + " " + std::string(target) +
                      " HTTP/1.1\r\nHost: localhost\r\n" + std::string(headers);
    if (!body.empty() || method == "POST")
      out += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
             "\r\n";
    return out + "\r\n" + std::string(body);
  }
  HttpAnswer call(std::string_view method, std::string_view target, std::string_view body = {},
                  std::string_view headers = {}) {
    send(request(method, target, body, headers));
    return receive(method == "HEAD");
  }

  // One more piece of what is coming; false at the end.
  bool read_some() {
    char buffer[16384];
    const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
    if (n <= 0) return false;
    data_.append(buffer, static_cast<size_t>(n));
    return true;
  }
  bool read_until(std::string_view text) {
    while (data_.find(text) == std::string::npos)
      if (!read_some()) return false;
    return true;
  }
  std::string& data() { return data_; }

  HttpAnswer receive(bool head_only = false) {
    HttpAnswer out;
    if (!read_until("\r\n\r\n")) return out;
    size_t at = data_.find("\r\n");
    out.status = std::stoi(data_.substr(9, 3));
    const size_t end = data_.find("\r\n\r\n");
    while (at < end) {
      const size_t next = data_.find("\r\n", at + 2);
      const std::string line = data_.substr(at + 2, next - at - 2);
      std::string name = line.substr(0, line.find(':'));
      for (char& c : name) c = static_cast<char>(tolower(c));
      out.headers[name] = line.substr(line.find(':') + 2);
      at = next;
    }
    data_.erase(0, end + 4);
    if (out.status == 100) return receive(head_only);
    if (head_only || out.status == 204) {
      out.complete = true;
    } else if (out.header("transfer-encoding") == "chunked") {
      out.complete = read_chunks(&out.body);
    } else if (!out.header("content-length").empty()) {
      const size_t length = std::stoul(out.header("content-length"));
      while (data_.size() < length && read_some()) {
      }
      out.complete = data_.size() >= length;
      out.body = data_.substr(0, length);
      data_.erase(0, length);
    } else {
      while (read_some()) {
      }
      out.body = std::exchange(data_, {});
      out.complete = true;
    }
    return out;
  }

 private:
  bool read_chunks(std::string* body) {
    while (true) {
      if (!read_until("\r\n")) return false;
      const size_t line = data_.find("\r\n");
      const size_t size = std::stoul(data_.substr(0, line), nullptr, 16);
      while (data_.size() < line + 2 + size + 2)
        if (!read_some()) return false;
      body->append(data_, line + 2, size);
      EXPECT_EQ(data_.substr(line + 2 + size, 2), "\r\n");
      data_.erase(0, line + 2 + size + 2);
      if (size == 0) return true;
    }
  }

  int fd_ = -1;
  bool connected_ = false;
  std::string data_;
};

}  // namespace sluice
