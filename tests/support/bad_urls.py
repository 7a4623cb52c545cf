"""URLs and hosts that must be refused, for every module that reads a URL."""


def words(text: str) -> list[str]:
    """A long list of short test cases, as one block of text."""
    return text.split()


SCHEMES = words("""
file:///etc/passwd ftp://a.example/ gopher://a.example/ data:text/plain,x javascript:alert(1)
ws://a.example/ //a.example/ a.example /x http:127.0.0.1 http:/127.0.0.1 http:///a.example
http:a.example http https:// httpx://a.example
""")
SHAPES = [
    *("", "http://", "http://:80/", "http://?x", "http://#x", "http://u:p@a.example/", "http://@a.example/"),
    *(
        "http:/\\127.0.0.1",
        "http://1.1.1.1@127.0.0.1/",
        "http://1.1.1.1\\@127.0.0.1/",
        "http://a.example\\x",
        "http://a.example/\\x",
    ),
    *("http://a.example:/", "http://a.example:0/", "http://a.example:99999/", "http://a.example:65536/"),
    *("http://a.example:-1/", "http://a.example:8_0/", "http://a.example:+80/", "http://a.example:٨٠/"),
    *("http://a.example:80:80/", "http://a..example/", "http://.example/", "http://-a.example/"),
    *("http://a%2eexample/", "http://%31%32%37.0.0.1/", "http://a.example%00/", "http://a$b.example/"),
    *("http://bücher.example/", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://\uff4cocalhost/"),
    *("http://\uff11\uff12\uff17.0.0.1/", "http://[v1.x]/", "http://[fe80::1%25eth0]/"),
    *("http://a.example/\t", "http://a.example/\r\nX: y", "http://a.example/\0", "http://a.example/a b"),
    *(" http://a.example/", "http://a.example/ ", "http://a.example/\u00a0", "http://a.example/\u2028"),
    *("http://a.exa\tmple/", "http://a.example/\u202ex", "http://a.example/\ud800", "http://a.example/\x7f"),
    *("http://[::1", "http://::1/", "http://[::1]x/", "http://[]/"),
    "http://a.example/" + "a" * 2048,
]
# Every spelling that a resolver may take for an address, whatever address that is.
SPELLINGS = words("""
127.1 127.0.1 0x7f.1 0x7f000001 0X7F000001 2130706433 017700000001 0 0x 127.0.0.1. 0177.0.0.1 127.0.0.01
256.0.0.1 1.2.3.4.5 134744072 0x8.8.8.8 0xa9fea9fe 1.1.1.1. 999999999999 a.1 00000000.0.0.0
""")
FORBIDDEN = words("""
127.0.0.1 127.255.0.1 0.0.0.0 10.0.0.1 192.168.1.1 169.254.169.254 100.100.100.200 168.63.129.16
192.0.0.192 224.0.0.1 [::] [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1]
[::FFFF:169.254.169.254] [64:ff9b::a9fe:a9fe] [2002:a9fe:a9fe::] [fd00:ec2::254] [::127.0.0.1]
[2a00::5efe:10.0.0.1] [fe80::1] localhost LOCALHOST localhost. a.localhost A.LocalHost.
localhost.localdomain ip6-loopback metadata metadata.google.internal METADATA.GOOGLE.INTERNAL.
metadata.goog instance-data
""")
