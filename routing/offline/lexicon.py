"""Names of the trade that automatic captions write in lower case, and words that bind numbers to settings."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOOLS = """
    3ds Max | After Effects | AnimateDiff | Anthropic | Aseprite | AUTOMATIC1111 | BERT | Blender | ChatGPT |
    Checkpoint Loader | Cinema 4D | Civitai | Claude | CLIP | CodeCarbon | ComfyUI | ComfyUI Manager |
    ControlNet | CUDA | Cursor | DaVinci Resolve | DeepSeek | Diffusers | Django | Docker | DreamBooth |
    ElevenLabs | ESRGAN | FFmpeg | Figma | FLUX | Fooocus | Gemini | GIMP | GitHub | Godot | GPT-4 | Gradio |
    Houdini | Hugging Face | Hunyuan | Illustrator | InstantID | IP-Adapter  | Jupyter | Keras |
    Kling | Krita | KSampler | Kubernetes | LangChain | Llama | llama.cpp | LM Studio | LoRA | Maya | Meshy |
    Midjourney | Mixamo | Mixtral | MLX | n8n | Node.js | NumPy | Ollama | OpenAI | OpenCV | OpenPose | Pandas |
    Photoshop | PostgreSQL | Premiere Pro | PyTorch | Qwen | React | Redis | Runway | SAM 2 | SD 1.5 | SDXL |
    Segment Anything | SillyTavern | SketchUp | Sora | Spine | Stable Diffusion | Substance Painter | Suno |
    SwinIR | TensorFlow | TensorRT | Topaz | Transformers | Tripo | Trellis | TypeScript | Unity | Unreal Engine
    | Upscayl | VAE Decode | VAE Encode | vLLM | VS Code | Wan 2.1 | Wan 2.2 | Whisper | ZBrush | ZLUDA
"""
# "Maya", "Cursor" or "React" are also everyday words: in lower case they are not taken for a tool.
_EVERYDAY = _words(
    """
    claude clip cursor flux gemini illustrator kling maya meshy react redis runway sora spine suno topaz
    transformers trellis unity whisper
    """
)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


TOOLS: dict[str, str] = {_key(name): name for name in (part.strip() for part in _TOOLS.split("|")) if name}


def _spoken(name: str) -> str:
    """A pattern for the name that allows spaces where it has a space, a hyphen or a hump."""
    humps = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s-]+", " ", name)
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
NOT_TOOLS = _words(
    """
    january february march april june july august september october november december monday tuesday wednesday
    thursday friday saturday sunday lundi mardi mercredi jeudi vendredi samedi dimanche janvier février mars
    avril mai juin juillet août septembre octobre novembre décembre english french german spanish chinese
    japanese korean european american america europe france germany china japan india canada internet ok okay ai
    ui cpu gpu api url usa uk us eu tv faq ceo cto pdf id i i'm i'll i've i'd god christmas youtube discord
    patreon twitter true false none null library framework university model
    """
)

# Words inside capitalised phrases that name a field, a post or a place.
NOT_IN_TOOLS = _words(
    """
    advocate chief college department developer director engineer engineering founder institute intelligence
    language learning manager modeling modelling nations officer president processing professor recognition
    researcher school science scientist states street team university
    """
)

# --- settings: spoken parameter -> the name it is reported under -------------------------------

# Each line: the name it is reported under, then what people say.
_PARAMETERS = """
    cfg: cfg, cfg scale
    guidance: guidance, guidance scale
    denoise: denoise, denoising, denoise strength, denoising strength
    steps: steps, sampling steps, step count
    strength: strength
    lora strength: lora strength
    lora weight: lora weight
    control weight: control weight
    model strength: model strength
    clip strength: clip strength
    conditioning strength: conditioning strength
    weight: weight
    seed: seed
    width: width
    height: height
    resolution: resolution
    size: image size
    batch size: batch size
    batch count: batch count
    learning rate: learning rate
    epochs: epoch, epochs
    temperature: temperature
    top_p: top p, top_p
    top_k: top k, top_k
    clip skip: clip skip
    frame rate: frame rate
    fps: fps
    frames: frames
    noise: noise
    threshold: threshold
    dropout: dropout
    opacity: opacity
    context length: context length
    context window: context window
    max tokens: max tokens
    scale: scale
    start percent: start percent
    end percent: end percent
    padding: padding
    blur: blur
    feather: feather, feathering
    tile size: tile size
    upscale: upscale by
    polygons: polygons
    samples: samples
    layers: layers
    vram: vram
    port: port
    timeout: timeout
    étapes: étapes
    poids: poids
    largeur: largeur
    hauteur: hauteur
    taux d'apprentissage: taux d'apprentissage
    seuil: seuil
    graine: graine
    schritte: schritte
    stärke: stärke
    pasos: pasos
    fuerza: fuerza
    步数: 步数, 步, 采样步数
    强度: 强度
    权重: 权重
    分辨率: 分辨率
    宽度: 宽度
    高度: 高度
    种子: 种子
    学习率: 学习率
    批次大小: 批次大小
    温度: 温度
    降噪: 降噪
    重绘幅度: 重绘幅度
"""
PARAMETERS: dict[str, str] = {
    spoken.strip(): name
    for name, _, forms in (line.strip().partition(":") for line in _PARAMETERS.strip().splitlines())
    for spoken in forms.split(",")
}
# Those that people also say after the number ("20 steps").
COUNTED = ("sampling steps", "steps", "epochs", "frames", "fps", "layers", "polygons", "samples", "étapes", "schritte",
           "pasos", "步")  # fmt: skip

_COUNTING = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
"""
NUMBER_WORDS: dict[str, str] = {
    **{word: str(number) for number, word in enumerate(_COUNTING.split())},
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "hundred": "100",
}

SAMPLERS = re.compile(
    r"\b(euler(?: a| ancestral)?|dpm\s?\+\+(?: ?2m| ?sde| ?3m)*(?: karras)?|dpmpp[_ ]2m(?:[_ ]sde)?|heun|ddim|unipc|"
    r"lcm|karras)\b",
    re.IGNORECASE,
)
