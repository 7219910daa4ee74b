"""A mail server that greets its callers, as they all do. Usage: smtp_server.py PORT"""

import socketserver
import sys


class Session(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mail ready")
        message = None
        for line in self.rfile:
            words = line.decode().strip()
            if message is not None:
                if words == ".":
                    print(f"{self.client_address[0]} sent {len(message)} lines", flush=True)
                    message = None
                    self.say("250 taken")
                else:
                    message.append(words)
            elif words.upper() == "DATA":
                message = []
                self.say("354 go on")
            elif words.upper() == "QUIT":
                return self.say("221 bye")
            else:
                self.say("250 mail")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


server = Server(("0.0.0.0", int(sys.argv[1])), Session)
print("listening", flush=True)
server.serve_forever()
