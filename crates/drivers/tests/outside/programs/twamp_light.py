"""A TWAMP-light sender (RFC 5357, Appendix I) that shares no code with Caelum.

Sends packets to the reflector at argv[1], argv[2]; argv[3] is the size of a packet. Prints one line for each
answer: sequence number of the reflector, echoed sequence number, size, hops left, and whether the times are in
order and the echoed time is the one that was sent.
"""

import socket
import struct
import sys
import time

NTP_EPOCH = 2208988800


def ntp(seconds):
    return int((seconds + NTP_EPOCH) * 2**32)


host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.settimeout(5)
sender.connect((host, port))
for number in range(3):
    sent = ntp(time.time())
    packet = struct.pack("!IQH", number, sent, 0x8001)
    sender.send(packet.ljust(size, b"\xa5"))
    answer = sender.recv(4096)
    came = ntp(time.time())
    seq, left, error, zero, received = struct.unpack("!IQHHQ", answer[:24])
    echoed, echoed_time, echoed_error, zero_too, hops = struct.unpack("!IQHHB", answer[24:41])
    slack = 2**32 // 1000
    in_order = sent - slack <= received <= left + slack <= came + 2 * slack
    is_echo = (echoed_time, echoed_error) == (sent, 0x8001) and zero == zero_too == 0 and error != 0
    print(seq, echoed, len(answer), hops, int(in_order and is_echo))
