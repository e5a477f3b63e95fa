// ruleid: markup-made-in-a-script
row.innerHTML = text;
// ok: markup-made-in-a-script
row.textContent = text;
// ruleid: markup-made-in-a-script
eval(text);
