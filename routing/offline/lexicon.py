"""Names of the trade that automatic captions write in lower case, and words that bind numbers to settings."""

import re

_TOOLS = """
    3ds Max|After Effects|AnimateDiff|Anthropic|Aseprite|AUTOMATIC1111|BERT|Blender|ChatGPT|Checkpoint Loader|Cinema 4D|
    Civitai|Claude|CLIP|CodeCarbon|ComfyUI|ComfyUI Manager|ControlNet|CUDA|Cursor|DaVinci Resolve|DeepSeek|Diffusers|
    Django|Docker|DreamBooth|ElevenLabs|ESRGAN|FFmpeg|Figma|FLUX|Fooocus|Gemini|GIMP|GitHub|Godot|GPT-4|Gradio|Houdini|
    Hugging Face|Hunyuan|Illustrator|InstantID|IP-Adapter|IPAdapter|Jupyter|Keras|Kling|Krita|KSampler|Kubernetes|
    LangChain|Llama|llama.cpp|LM Studio|LoRA|Maya|Meshy|Midjourney|Mixamo|Mixtral|MLX|n8n|Node.js|NumPy|Ollama|OpenAI|
    OpenCV|OpenPose|Pandas|Photoshop|PostgreSQL|Premiere Pro|PyTorch|Qwen|React|Redis|Runway|SAM 2|SD 1.5|SDXL|Segment Anything|
    SillyTavern|SketchUp|Sora|Spine|Stable Diffusion|Substance Painter|Suno|SwinIR|TensorFlow|TensorRT|Topaz|Transformers|
    Tripo|Trellis|TypeScript|Unity|Unreal Engine|Upscayl|VAE Decode|VAE Encode|vLLM|VS Code|Wan 2.1|Wan 2.2|Whisper|
    ZBrush|ZLUDA
"""
# "Maya", "Cursor" or "React" are also everyday words: in lower case they are not taken for a tool.
_EVERYDAY = frozenset(
    "claude clip cursor flux gemini illustrator kling maya meshy react redis runway sora spine suno topaz transformers "
    "trellis unity whisper".split()
)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


TOOLS: dict[str, str] = {_key(name): name for name in (part.strip() for part in _TOOLS.split("|")) if name}


def _spoken(name: str) -> str:
    """A pattern for the name that allows spaces where it has a space, a hyphen or a hump."""
    humps = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", " ", name)
    return re.escape(humps).replace("\\ ", r"[\s-]?")


KNOWN_TOOL = re.compile(
    r"(?<![\w.])(?:" + "|".join(map(_spoken, sorted(TOOLS.values(), key=lambda name: (-len(name), name)))) + r")(?!\w)",
    re.IGNORECASE,
)


def canonical_tool(found: str) -> str:
    """The usual spelling of a name found by KNOWN_TOOL; "" if it is an everyday word here."""
    key = _key(found)
    return "" if key in _EVERYDAY and found.islower() else TOOLS.get(key, found)


# Capitalised words that name no tool.
NOT_TOOLS = frozenset(
    """
    january february march april june july august september october november december monday tuesday wednesday thursday
    friday saturday sunday lundi mardi mercredi jeudi vendredi samedi dimanche janvier février mars avril mai juin juillet
    août septembre octobre novembre décembre english french german spanish chinese japanese korean european american
    america europe france germany china japan india canada internet ok okay ai ui cpu gpu api url usa uk us eu tv faq ceo
    cto pdf id i i'm i'll i've i'd god christmas youtube discord patreon twitter true false none null
    library framework university model
    """.split()
)

# Words inside capitalised phrases that name a field, a post or a place.
NOT_IN_TOOLS = frozenset(
    """
    advocate chief college department developer director engineer engineering founder institute intelligence language
    learning manager modeling modelling nations officer president processing professor recognition researcher school science
    scientist states street team university
    """.split()
)

# --- settings: spoken parameter -> the name it is reported under -------------------------------

PARAMETERS: dict[str, str] = {
    "cfg scale": "cfg", "cfg": "cfg", "guidance scale": "guidance", "guidance": "guidance", "denoising strength": "denoise",
    "denoise strength": "denoise", "denoising": "denoise", "denoise": "denoise", "sampling steps": "steps", "steps": "steps",
    "step count": "steps", "lora strength": "lora strength", "lora weight": "lora weight", "control weight": "control weight",
    "model strength": "model strength", "clip strength": "clip strength", "conditioning strength": "conditioning strength",
    "strength": "strength", "weight": "weight", "seed": "seed", "width": "width", "height": "height",
    "resolution": "resolution", "image size": "size", "batch size": "batch size", "batch count": "batch count",
    "learning rate": "learning rate", "epochs": "epochs", "epoch": "epoch", "temperature": "temperature", "top p": "top_p",
    "top k": "top_k", "top_p": "top_p", "top_k": "top_k", "clip skip": "clip skip", "frame rate": "frame rate", "fps": "fps",
    "frames": "frames", "noise": "noise", "threshold": "threshold", "dropout": "dropout", "opacity": "opacity",
    "context length": "context length", "context window": "context window", "max tokens": "max tokens", "scale": "scale",
    "start percent": "start percent", "end percent": "end percent", "padding": "padding",
    "blur": "blur", "feathering": "feathering", "feather": "feather", "tile size": "tile size", "upscale by": "upscale",
    "polygons": "polygons", "samples": "samples", "layers": "layers", "vram": "vram", "port": "port", "timeout": "timeout",
    "étapes": "étapes", "poids": "poids", "largeur": "largeur", "hauteur": "hauteur",
    "taux d'apprentissage": "taux d'apprentissage", "seuil": "seuil", "graine": "graine",
    "schritte": "schritte", "stärke": "stärke", "pasos": "pasos", "fuerza": "fuerza",
    "步数": "步数", "步": "步", "强度": "强度", "权重": "权重", "分辨率": "分辨率", "宽度": "宽度", "高度": "高度", "种子": "种子",
    "学习率": "学习率", "批次大小": "批次大小", "温度": "温度", "降噪": "降噪", "重绘幅度": "重绘幅度", "采样步数": "采样步数",
}  # fmt: skip
# Those that people also say after the number ("20 steps").
COUNTED = ("sampling steps", "steps", "epochs", "frames", "fps", "layers", "polygons", "samples", "étapes", "schritte",
           "pasos", "步")  # fmt: skip

NUMBER_WORDS: dict[str, str] = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split()
    )
} | {"thirty": "30", "forty": "40", "fifty": "50", "hundred": "100"}

SAMPLERS = re.compile(
    r"\b(euler(?: a| ancestral)?|dpm\s?\+\+(?: ?2m| ?sde| ?3m)*(?: karras)?|dpmpp[_ ]2m(?:[_ ]sde)?|heun|ddim|unipc|lcm|karras)\b",
    re.IGNORECASE,
)

# --- workflow: words that open or mark a step, by language ---------------------------------------

STEP_CUES: dict[str, re.Pattern[str]] = {
    "english": re.compile(
        r"^(?:so |and |now |okay |ok |then |next |again |well |alright |all right |just |let's |we(?:'ll| will| can)? |you(?:'ll| will| can)? "
        r"|i(?:'ll| will|'m going to| am going to)? |go ahead and |(?:you|we) (?:need|want|have) to |please |here |,)*"
        r"(?:add|adjust|apply|attach|bring|build|change|check|choose|click|close|combine|configure|connect|convert|copy|"
        r"create|crop|delete|disable|double[- ]click|download|drag|draw|drop|duplicate|enable|enter|export|extract|feed|"
        r"generate|git clone|hit|import|increase|insert|install|launch|lower|mask|merge|move|name|open|paste|pick|place|"
        r"plug|press|pull|put|queue|raise|reduce|remove|rename|render|replace|resize|restart|right[- ]click|rotate|run|save|scale|"
        r"scroll|select|set|start|switch|take|tick|toggle|train|turn|type|uncheck|unzip|update|upload|upscale|use|wire|"
        r"write|zoom)\b"
        r"|\b(?:first(?: of all)?,|first step|second step|next step|last step|step \d+|to start(?: with)?,|after that|once (?:that|this|it)(?:'s| is)|"
        r"and then (?:we|you|i)|then (?:we|you|i) |next,|finally,|lastly,|to finish|we start by|we begin by|the first thing)",
        re.IGNORECASE,
    ),
    "french": re.compile(
        r"\b(?:d'abord|tout d'abord|premièrement|ensuite|puis|après cela|enfin|finalement|pour commencer|première étape|"
        r"étape suivante|dernière étape|cliqu(?:ez|ons|er)|ouvr(?:ez|ons)|charg(?:ez|eons)|sélectionn(?:ez|ons)|"
        r"choisiss(?:ez|ons)|ajout(?:ez|ons)|connect(?:ez|ons)|régl(?:ez|ons)|install(?:ez|ons)|télécharg(?:ez|eons)|"
        r"lanc(?:ez|ons)|définiss(?:ez|ons)|appliqu(?:ez|ons)|il suffit de|nous commençons par)\b",
        re.IGNORECASE,
    ),
    "german": re.compile(
        r"\b(?:zuerst|zunächst|als erstes|danach|anschließend|als nächstes|zum schluss|schließlich|klick(?:t|en sie|e)|"
        r"öffne[nt]?|wähl(?:e|t|en)|lade[nt]?|verbinde[nt]?|installier(?:e|t|en)|stell(?:e|t|en))\b",
        re.IGNORECASE,
    ),
    "spanish": re.compile(
        r"\b(?:primero|en primer lugar|luego|después|a continuación|finalmente|por último|haz clic|hacemos clic|abr(?:e|imos)|"
        r"seleccion(?:a|amos)|conect(?:a|amos)|carg(?:a|amos)|instal(?:a|amos)|añad(?:e|imos))\b",
        re.IGNORECASE,
    ),
    "italian": re.compile(r"\b(?:prima di tutto|innanzitutto|poi|successivamente|infine|clicca|apri|seleziona|carica)\b", re.IGNORECASE),
    "portuguese": re.compile(r"\b(?:primeiro|em seguida|depois|por fim|finalmente|clique|abra|selecione|carregue)\b", re.IGNORECASE),
    "chinese": re.compile(r"首先|然后|接着|接下来|最后一步|第[一二三四五六七八九十\d]+步|点击|打开|选择|加载|连接|设置|安装|下载|输入|添加|拖"),
    "japanese": re.compile(r"まず|次に|それから|最後に|クリック|選択|開い|接続|設定|読み込|インストール"),
}  # fmt: skip
