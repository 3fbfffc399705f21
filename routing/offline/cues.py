"""The phrases by which people ask, give orders, want a judgement or tell a step, by language."""

import re


def _either(phrases: str) -> str:
    """One group of phrases separated by ` | `, which may stand on several lines."""
    return "(?:" + "|".join(" ".join(phrase.split()) for phrase in re.split(r"\s\|\s", phrases)) + ")"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# --- tasks -----------------------------------------------------------------------------------------

_POLITE = r"^\W{0,20}(?:please |can you |could you |now )*"
_TASK_VERBS = _either(
    r"""
    summar\w+ | tl;?dr | explain | describe | outline | condense | recap | sum up | extract | analy[sz]e | translate |
    write | generate | create | merge | combine | synthesi[sz]e | consolidate | judge | verify | evaluate | classify |
    improve | rewrite | refine | compare | identify | find | résum\w+ | expli\w+ | décri\w+ | fasse | fass |
    zusammenfass\w+ | erklär\w+ | resum\w+ | riassum\w+ | spiega\w*
    """
)
_VERBS_AND_NOUNS = _either("draft | grade | list | name | rate | review | score")
_SUMMARY_WORDS = _either(
    r"""
    summar(?:y|ies|i[sz]\w*) | tl;?dr | explain | describe | outline | condense | recap | sum up | key points |
    main points | takeaways | merge | combine | synthesi[sz]e | consolidate | digest | gist | résum\w+ |
    expliqu\w+ | zusammenfass\w+ | fass\w*\s.*zusammen | erklär\w+ | resum\w+ | explic\w+ | riassum\w+
    """
)
TASK_VERB = _compiled(
    rf"{_POLITE}(?:{_TASK_VERBS}\b|{_VERBS_AND_NOUNS}\b(?!\s*[:=]))"
    r"|^\W{0,20}(?:请|總結|总结|概括|解释|要約|翻译)"
)
_LESSER_VERBS = _either(
    """
    answer | calculate | convert | count | decide | determine | fill | fix | give | help | label | look | make | parse |
    plan | produce | propose | provide | read | reply | return | show | solve | suggest | tell | turn | use | using
    """
)
LESSER_TASK = _compiled(rf"{_POLITE}{_LESSER_VERBS}\b|[:：]\s*$")
WANTS_SUMMARY = _compiled(rf"\b{_SUMMARY_WORDS}\b|总结|總結|概括|摘要|解释|要約")
_TASK_LABELS = _either(
    "question | query | task | instructions? | frage | pregunta | domanda | pergunta | aufgabe | tâche | 问题 | 質問 |"
    " q"
)
_MATERIAL_LABELS = _either(
    "context | document | passages? | text | source | transcript | content | metrics | notes? | 上下文 | 文本"
)
LABELLED_TASK = re.compile(
    rf"^[^\w\n]{{0,20}}(?:user(?:'s)? )?{_TASK_LABELS}[^\w\n]{{0,3}}[:：][^\w\n]{{0,20}}(.*)$",
    re.IGNORECASE | re.MULTILINE,
)
MATERIAL_LABEL = _compiled(rf"^\W{{0,20}}{_MATERIAL_LABELS}\s*[:：]\s*")
HEADER = _compiled(r"^\W{0,20}(?:title|video|creator|channel|author|url|duration|date)\s*[:：]|^[\w ]{1,40}[:：]$")
_SCHEMA_WORDS = _either(
    """
    type | properties | required | items | enum | const | format | pattern | description | minLength | maxLength |
    minItems | maxItems | minimum | maximum | additionalProperties | anyOf | oneOf | allOf | [$]ref |
    [$]schema | [$]defs
    """
)
# A field of a JSON schema: prompts often repeat the schema of the answer that they want.
SCHEMA_FIELD = re.compile(rf"^\W*{_SCHEMA_WORDS}\"\s*:|\"type\"\s*:")
DIRECTIVE = _compiled(
    r"^\W{0,20}"
    + _either(
        r"""
        you(?:'re)?\b | your (?:task|job|role|answer) | please | answer | reply | respond | return |
        use (?:the|only|these|this) | do not | don't | never | always | keep | be\s | write | give | cite |
        quote | if (?:the|you|nothing|there|no) | only\s | act as | here (?:is|are) | based on | given the |
        tu es | vous êtes | répond\w+ | du bist | sie sind | antworte\w* | eres | responde | 你是 | 请
        """
    )
)

# A message that only says something about an earlier one, whose task it repeats.
REFERS_BACK = _compiled(
    r"\b(?:task|question|request|prompt) above\b|\babove (?:task|question)\b|\banswer again\b|\bagain, corrected\b"
    r"|\banswer (?:cannot be used|did not validate|is not valid)\b"
)

# --- judgements ------------------------------------------------------------------------------------

_VERDICT = r"(?:APPROVED?|REJECT(?:ED)?|PASS|FAIL)"
_JUDGED = r"(?i:answers?|response|draft|claims?|code|solution)"
_GOOD = r"(?i:correct|right|acceptable|valid|better|best|good|complete)"
DEMANDS_VERDICT = re.compile(
    r"\b(?i:verdict|LGTM|approve or reject|cast your vote|vote for)\b"
    rf"|\b{_VERDICT}\b\W{{1,10}}(?:(?:or|and)\W{{1,10}})?{_VERDICT}\b"
)
WANTS_JUDGEMENT = re.compile(
    r"\b(?i:judge|grade)\b (?i:the|this|that|these|those|whether|if|each|how|which|both|it)\b"
    r"|\b(?i:score|rate)\b(?! (?i:your|the) confidence)[^.\n]{0,60}\b(?i:from|out of|between|on a scale|0-|1-)"
    rf"|\b(?i:verify|review|evaluate|assess|critique|check|fact-check)\b(?![^.\n]{{0,40}}\byour\b)[^.\n]{{0,40}}\b{_JUDGED}\b"
    rf"|(?<!your )\b{_JUDGED}(?: \w+){{0,3}} (?i:is|are) {_GOOD}\b"
    rf"|\b(?i:is|are) (?i:this|the|that|these)(?: \w+){{0,2}} {_JUDGED}\b[^.\n]{{0,20}}\b{_GOOD}\b"
    r"|\b(?i:which|better) (?i:answer|response|draft)\b"
)

FAILURE = _compiled(
    r"\b(?:error|exception|fail(?:ed|ure|s)?|fatal|critical|traceback|panic|timed? ?out|warning|denied)\b"
)

# --- numbers ---------------------------------------------------------------------------------------

_HOW = "much | many | long | big | large | often | high | old | far | fast | full"
_QUANTITY = "percentage | number | amount | share | size | rate | price | cost | temperature | year | port"
WANTS_NUMBER = _compiled(
    rf"\bhow {_either(_HOW)}\b|\b(?:what|which) {_either(_QUANTITY)}\b"
    r"|\bcombien\b|\bwie ?viele?\b|\bcuánt[oa]s?\b|\bquant[oiae]s?\b"
    r"|多少|几个|いくつ|いくら"
)

# --- steps of a workflow -----------------------------------------------------------------------------

_LEAD_IN = _either(
    r"""
    so\s | and\s | now\s | okay\s | ok\s | then\s | next\s | again\s | well\s | alright\s | all right\s |
    just\s | let's\s | please\s | here\s | go ahead and\s | we(?:'ll| will| can)?\s | you(?:'ll| will| can)?\s |
    i(?:'ll| will|'m going to| am going to)?\s | (?:you|we) (?:need|want|have) to\s | ,
    """
).replace("\\s ", " ")
_ACTIONS = _either(
    r"""
    add | adjust | apply | attach | bring | build | change | check | choose | click | close | combine |
    configure | connect | convert | copy | create | crop | delete | disable | double[- ]click | download |
    drag | draw | drop | duplicate | enable | enter | export | extract | feed | generate | git clone | hit |
    import | increase | insert | install | launch | load | lower | mask | merge | move | name | open | paste |
    pick | place | plug | press | pull | put | queue | raise | reduce | remove | rename | render | replace |
    resize | restart | right[- ]click | rotate | run | save | scale | scroll | select | set | start | switch |
    take | tick | toggle | train | turn | type | uncheck | unzip | update | upload | upscale | use | wire |
    write | zoom
    """
)
_SEQUENCE = _either(
    r"""
    first(?: of all)?, | first step | second step | next step | last step | step \d+ | to start(?: with)?, |
    after that | once (?:that|this|it)(?:'s| is) | and then (?:we|you|i) | then (?:we|you|i)\b | next, |
    finally, | lastly, | to finish | we start by | we begin by | the first thing
    """
)
_FRENCH = _either(
    r"""
    d'abord | tout d'abord | premièrement | ensuite | puis | après cela | enfin | finalement | pour commencer |
    première étape | étape suivante | dernière étape | cliqu(?:ez|ons|er) | ouvr(?:ez|ons) | charg(?:ez|eons) |
    sélectionn(?:ez|ons) | choisiss(?:ez|ons) | ajout(?:ez|ons) | connect(?:ez|ons) | régl(?:ez|ons) |
    install(?:ez|ons) | télécharg(?:ez|eons) | lanc(?:ez|ons) | définiss(?:ez|ons) | appliqu(?:ez|ons) |
    il suffit de | nous commençons par
    """
)
_GERMAN = _either(
    r"""
    zuerst | zunächst | als erstes | danach | anschließend | als nächstes | zum schluss | schließlich |
    klick(?:t|en sie|e) | öffne[nt]? | wähl(?:e|t|en) | lade[nt]? | verbinde[nt]? | installier(?:e|t|en) |
    stell(?:e|t|en)
    """
)
_SPANISH = _either(
    r"""
    primero | en primer lugar | luego | después | a continuación | finalmente | por último | haz clic |
    hacemos clic | abr(?:e|imos) | seleccion(?:a|amos) | conect(?:a|amos) | carg(?:a|amos) | instal(?:a|amos) |
    añad(?:e|imos)
    """
)
_ITALIAN = _either(
    "prima di tutto | innanzitutto | poi | successivamente | infine | clicca | apri | seleziona | carica"
)
_PORTUGUESE = _either("primeiro | em seguida | depois | por fim | finalmente | clique | abra | selecione | carregue")
STEPS: dict[str, re.Pattern[str]] = {
    "english": _compiled(rf"^{_LEAD_IN}*{_ACTIONS}\b|(?<!\w){_SEQUENCE}"),
    "french": _compiled(rf"\b{_FRENCH}\b"),
    "german": _compiled(rf"\b{_GERMAN}\b"),
    "spanish": _compiled(rf"\b{_SPANISH}\b"),
    "italian": _compiled(rf"\b{_ITALIAN}\b"),
    "portuguese": _compiled(rf"\b{_PORTUGUESE}\b"),
    "chinese": re.compile(
        "首先|然后|接着|接下来|最后一步|第[一二三四五六七八九十0-9]+步|点击|打开|选择|加载|连接|设置|安装|下载|添加|拖"
    ),
    "japanese": re.compile("まず|次に|それから|最後に|クリック|選択|開い|接続|設定|読み込|インストール"),
}
