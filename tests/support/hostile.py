"""Text that would run, load, hide or break something on a page that did not take it for text.

Each payload holds its number, so that what happens, and what is shown, can be distinguished. Whatever
runs calls `pwn(number)`; whatever loads asks for `/pwned/number`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

SCRIPT: Final = "pwn({n})"
HANDLERS: Final = (
    ("img", "src=x", "onerror"), ("svg", "", "onload"), ("body", "", "onload"),
    ("body", "", "onpageshow"), ("input", "autofocus", "onfocus"), ("video", "src=x", "onerror"),
    ("audio", "src=x", "onerror"), ("details", "open", "ontoggle"), ("iframe", "", "onload"),
    ("marquee", "", "onstart"), ("style", "", "onload"), ("link", "rel=stylesheet href=/", "onload"),
    ("object", "data=x", "onerror"), ("embed", "src=x", "onload"), ("select", "autofocus", "onfocus"),
    ("textarea", "autofocus", "onfocus"), ("keygen", "autofocus", "onfocus"),
    ("div", "style=animation:x", "onanimationstart"), ("div", "", "onpointerover"),
    ("div", "contenteditable autofocus", "onfocus"), ("video", "", "onloadstart"),
    ("track", "src=x", "onerror"), ("source", "src=x", "onerror"), ("script", "src=x", "onerror"),
    ("image", "src=x", "onerror"), ("frameset", "", "onload"), ("button", "autofocus", "onfocus"),
    ("form", "", "onsubmit"), ("dialog", "open", "onclose"), ("div", "popover", "onbeforetoggle"),
)  # fmt: skip
OUT_OF_ATTRIBUTES: Final = ('"', "'", "`", " ", "\t", "\n", '">', "'>", "/>", '"/>', '" ', "' ",
                            "-->", "]]>", "%22", "&quot;", "&#34;", "\\\"", "\\u0022", "\x00\"")  # fmt: skip
OUT_OF_ELEMENTS: Final = ("script", "style", "title", "textarea", "noscript", "template", "iframe",
                          "xmp", "noembed", "plaintext", "option", "table", "svg", "math", "dialog",
                          "time", "dd", "li", "main", "body")  # fmt: skip
HTMX: Final = (
    'hx-get="/pwned/{n}" hx-trigger="load"', 'hx-post="/pwned/{n}" hx-trigger="load"',
    'hx-put="/pwned/{n}" hx-trigger="revealed"', 'hx-delete="/pwned/{n}" hx-trigger="intersect"',
    'hx-get="/pwned/{n}" hx-trigger="every 1s"', 'hx-get="/pwned/{n}" hx-trigger="load delay:1ms"',
    'hx-ws:connect="/pwned/{n}"', 'hx-ws="connect:/pwned/{n}"', 'hx-sse:connect="/pwned/{n}"',
    'hx-on:load="pwn({n})"', 'hx-on::load="pwn({n})"', 'hx-on:htmx:load="pwn({n})"',
    'hx-on--after-init="pwn({n})"', 'hx-on="load: pwn({n})"',
    'hx-trigger="load[pwn({n})]" hx-get="/pwned/{n}"',
    "hx-vals='js:{{a: pwn({n})}}' hx-get='/pwned/{n}' hx-trigger='load'",
    "hx-headers='js:{{a: pwn({n})}}' hx-get='/pwned/{n}' hx-trigger='load'",
    'hx-include="*" hx-post="/pwned/{n}" hx-trigger="load"',
    'hx-boost="true" hx-target="body" hx-get="/pwned/{n}" hx-trigger="load"',
    'data-hx-get="/pwned/{n}" data-hx-trigger="load"', 'hx-config="{{}}" hx-get="/pwned/{n}"',
    'hx-swap-oob="true" id="panel-events" data-n="{n}"', 'hx-preload="/pwned/{n}"',
    'hx-action="/pwned/{n}" hx-method="get" hx-trigger="load"', 'hx-nonce="x" hx-get="/pwned/{n}"',
    'hx-get="/pwned/{n}" hx-trigger="load" hx-nonce',
)  # fmt: skip
ADDRESSES: Final = (
    "javascript:pwn({n})", "JaVaScRiPt:pwn({n})", " javascript:pwn({n})", "java\tscript:pwn({n})",
    "java\nscript:pwn({n})", "\x01javascript:pwn({n})", "javascript&colon;pwn({n})",
    "javascript://x/%0apwn({n})", "javascript:/*--></title>*/pwn({n})", "vbscript:pwn({n})",
    "data:text/html,<script>pwn({n})</script>", "data:text/html;base64,PHNjcmlwdD4={n}",
    "data:image/svg+xml,<svg onload=pwn({n})>", "blob:null/{n}", "file:///etc/passwd?{n}",
    "view-source:javascript:pwn({n})", "//127.0.0.1:1/pwned/{n}", "\\\\127.0.0.1:1/pwned/{n}",
    "https://u:p@127.0.0.1:1/pwned/{n}", "https://127.0.0.1:1/pwned/{n}\" onclick=\"pwn({n})",
    "http://127.0.0.1:1/pwned/{n}?a=<script>pwn({n})</script>", "http://127.0.0.1:1/pwned/{n}'onx=",
    "intent://x#{n}", "mailto:x?body={n}", "ws://127.0.0.1:1/pwned/{n}", "/pwned/{n}", "?pwned={n}",
    "feed:javascript:pwn({n})", "jar:javascript:pwn({n})!/", "about:srcdoc#{n}",
)  # fmt: skip
MARKUP: Final = (
    "<script>pwn({n})</script>", "<SCRIPT>pwn({n})</SCRIPT>", "<script/x>pwn({n})</script>",
    "<script src=/pwned/{n}></script>", "<script type=module>pwn({n})</script>",
    "<script nonce=>pwn({n})</script>", "<<script>pwn({n})//<</script>", "<scr<script>ipt>pwn({n})",
    "<script>pwn({n})", "</script><script>pwn({n})</script>", "<base href=/pwned/{n}>",
    "<meta http-equiv=refresh content='0;url=/pwned/{n}'>", "<link rel=stylesheet href=/pwned/{n}>",
    "<link rel=preload as=script href=/pwned/{n}>", "<iframe src=/pwned/{n}></iframe>",
    "<iframe srcdoc='<script>parent.pwn({n})</script>'></iframe>", "<object data=/pwned/{n}></object>",
    "<embed src=/pwned/{n}>", "<img src=/pwned/{n}>", "<img srcset='/pwned/{n} 1x'>",
    "<picture><source srcset=/pwned/{n}><img></picture>", "<video poster=/pwned/{n}></video>",
    "<style>@import '/pwned/{n}';</style>", "<style>*{{background:url(/pwned/{n})}}</style>",
    "<div style='background:url(/pwned/{n})'>", "<form action=/pwned/{n}><button>x</button></form>",
    "<form id=x></form><button form=x formaction=javascript:pwn({n})>x</button>",
    "<a href=javascript:pwn({n})>x</a>", "<a href=/pwned/{n} ping=/pwned/{n}>x</a>",
    "<area href=javascript:pwn({n})>", "<template><script>pwn({n})</script></template>",
    "<template shadowrootmode=open><script>pwn({n})</script></template>", "<slot name=x>{n}</slot>",
    "<hx-partial hx-target=body><script>pwn({n})</script></hx-partial>",
    "<hx-partial hx-target='#main' hx-swap=innerHTML><img src=/pwned/{n}></hx-partial>",
    "<template hx type=partial hx-target=body><b id=pwned>{n}</b></template>",
    '{{"content": "<b id=pwned>{n}</b>", "target": "body", "swap": "innerHTML"}}',
    # SVG and MathML, and what a second parse would make of text.
    "<svg><script>pwn({n})</script></svg>", "<svg><script href=/pwned/{n} /></svg>",
    "<svg><a xlink:href=javascript:pwn({n})><text y=9>x</text></a></svg>",
    "<svg><animate onbegin=pwn({n}) attributeName=x dur=1s>", "<svg><use href=/pwned/{n}#x /></svg>",
    "<svg><set attributeName=href to=javascript:pwn({n}) /></svg>", "<svg><image href=/pwned/{n} />",
    "<svg><foreignObject><iframe src=/pwned/{n}></foreignObject></svg>",
    "<svg><style><img src=x onerror=pwn({n})></style></svg>", "<svg></p><style><a id=\"</style><img "
    "src=1 onerror=pwn({n})>\">", "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;"
    "&lt;img src=1 onerror=pwn({n})&gt;\">", "<math href=javascript:pwn({n})>x</math>",
    "<math><annotation-xml encoding=text/html><img src=x onerror=pwn({n})></annotation-xml></math>",
    "<noscript><p title=\"</noscript><img src=x onerror=pwn({n})>\">", "<form><math><mtext></form>"
    "<form><mglyph><style></math><img src onerror=pwn({n})>", "<listing>&lt;img src=x onerror=pwn({n})",
    "<xmp><p title=\"</xmp><img src=x onerror=pwn({n})>\">", "<!--><img src=x onerror=pwn({n})>-->",
    "<!--[if gte IE 4]><script>pwn({n})</script><![endif]-->", "<![CDATA[<img src=x onerror=pwn({n})>]]>",
    "<?xml-stylesheet href=/pwned/{n}?>", "<!ENTITY x SYSTEM '/pwned/{n}'>",
    "&lt;script&gt;pwn({n})&lt;/script&gt;", "&amp;lt;script&amp;gt;pwn({n})", "&#x3c;img src=x onerror=pwn({n})>",
    "%3Cscript%3Epwn({n})%3C/script%3E", "\\u003cscript\\u003epwn({n})\\u003c/script\\u003e",
    "+ADw-script+AD4-pwn({n})+ADw-/script+AD4-", "\uff1cscript\uff1epwn({n})\uff1c/script\uff1e",
    "\u2039script\u203apwn({n})", "<scr\u0131pt>pwn({n})</scr\u0131pt>", "<img\x0csrc=x\x0conerror=pwn({n})>",
    "<img\x00src=x onerror=pwn({n})>", "<\x00script>pwn({n})</script>", "<img/src=x/onerror=pwn({n})>",
    # Templates, and what reads text as code.
    "{{{{ 7*7 }}}}pwn {n}", "{{% include '/etc/passwd' %}}{n}", "${{7*7}} {n}", "#{{7*7}} {n}", "<%= 7*7 %> {n}",
    "{{{{ config }}}}{{{{ self.__init__.__globals__ }}}} {n}", "{{{{ ''.__class__.__mro__ }}}} {n}", "*{{7*7}} {n}",
    "{{# {n} #}}", "{{{{constructor.constructor('pwn({n})')()}}}}", "[[${{7*7}}]] {n}", "@(7*7) {n}", "`${{pwn({n})}}`",
    "'-pwn({n})-'", "\\'-pwn({n})//", "\u2028pwn({n})\u2029", "';pwn({n});//", "*/pwn({n})/*", "__proto__ {n}",
    "constructor {n}", "1 OR 1=1; DROP TABLE events;-- {n}", "' UNION SELECT {n} --", "%s%n%x {n}", "$(touch {n})",
    "`touch {n}`", "../../../../etc/passwd {n}", "=cmd|'/c calc'!A{n}", "\r\nSet-Cookie: a={n}", "(?:a+)+$ {n}",
    # What a terminal or an eye would be led astray by.
    "\x1b[2J\x1b[31mpwn {n}", "\x1b]0;pwn {n}\x07", "\x1b]8;;javascript:pwn({n})\x1b\\x\x1b]8;;\x1b\\", "\x9b31m {n}",
    "\u202egnp.{n}.exe", "\u2066{n}\u2069\u2067x", "\u200e\u200f{n}\u061c", "\u200b\u200c\u200d\ufeff{n}", "a\x08\x08\x7f{n}",
    "\ud83d\ude08 {n}".encode("utf-16", "surrogatepass").decode("utf-16"), "\U000e0041\U000e0042 {n}", "Z\u0335\u0321{n}",
    # What would take the place of something a script looks for by name.
    "<a id=htmx>{n}</a>", "<a id=pwned name=pwned>{n}</a>", "<form id=document><input name=cookie>{n}", "<img name=getElementById>{n}",
    "<form id=live><input name=dataset value={n}>", "<a id=panel-events>{n}</a>", "<input name=csrf value={n}>",
    "<form id=trustedTypes>{n}", "<iframe name=htmx srcdoc={n}></iframe>", "<meta name=htmx-config content='{{\"a\":{n}}}'>",
)  # fmt: skip


def payloads() -> list[str]:
    """All of them, none twice."""
    shapes = [
        *MARKUP,
        *(f"<{tag} {more} {handler}={SCRIPT}>" for tag, more, handler in HANDLERS),
        *(f"{way} onmouseover={SCRIPT} autofocus onfocus={SCRIPT} x=" for way in OUT_OF_ATTRIBUTES),
        *(f"{way}><img src=x onerror={SCRIPT}>" for way in OUT_OF_ATTRIBUTES),
        *(f"</{tag}><img src=/pwned/{{n}} onerror={SCRIPT}>" for tag in OUT_OF_ELEMENTS),
        *(f"<div {attributes}></div>" for attributes in HTMX),
        *(f'" {attributes} x="' for attributes in HTMX),
        *ADDRESSES,
        *(f'<a href="{address}">x</a>' for address in ADDRESSES),
    ]
    return [shape.format(n=f"9{number:03d}9") for number, shape in enumerate(shapes)]


def spoilt(value: Any, numbers: Iterator[int], texts: Sequence[str]) -> Any:
    """The same with every text in it, keys of its own making among them, replaced by the next."""
    match value:
        case str():
            return texts[next(numbers) % len(texts)]
        case list():
            return [spoilt(each, numbers, texts) for each in value]
        case dict() if value and all(isinstance(each, str) for each in value.values()):
            # Labels, annotations and the like: whoever writes them chooses the names as well.
            return {key: spoilt(each, numbers, texts) for key, each in value.items()} | {
                texts[next(numbers) % len(texts)]: texts[next(numbers) % len(texts)]
            }
        case dict():
            return {key: spoilt(each, numbers, texts) for key, each in value.items()}
        case _:
            return value
